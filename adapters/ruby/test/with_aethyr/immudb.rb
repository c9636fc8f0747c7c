# frozen_string_literal: true

# Owns the play of an outage of ImmuDB: it is killed while Aethyr's commands run, and comes back. Started by
# with-aethyr.sh if IMMUDB names the program.
$stdout.sync = true
require "aethyr/core/util/config"
require "aethyr/core/components/manager"
require_relative "immudb_process"

CHECKS = []
def check(what, right, found = nil)
  CHECKS << right
  puts "#{right ? "ok" : "FAILED"} #{what}#{" (found #{found.inspect[0, 300]})" unless right}"
end

$manager = nil
$manager = Manager.new
client = Sequent.configuration.event_store.client
state = lambda do |wanted|
  300.times do
    stats = client.stats
    return stats if stats.state == wanted && stats.pending_events.zero?

    sleep 0.1
  end
  client.stats
end

def describe(number)
  Sequent.command_service.execute_commands(
    Aethyr::Core::EventSourcing::UpdateRoomDescription.new(id: "hall", description: "Text #{number}.")
  )
end

check "connected", state.call(:STATE_CONNECTED).state == :STATE_CONNECTED, client.stats.state
Sequent.command_service.execute_commands(
  Aethyr::Core::EventSourcing::CreateRoom.new(id: "hall", name: "Hall", description: "A hall.")
)
immudb = ImmudbProcess.running
20.times { |number| describe(number) }
immudb.kill
times = (20...60).map do |number|
  began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  describe(number)
  Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
end
check "no command fails without ImmuDB", client.load("hall").last_sequence == 62,
  client.load("hall").last_sequence
check "the service is in fallback", client.stats.state == :STATE_FALLBACK, client.stats.state
puts format("slowest command without ImmuDB: %.3f s, pending: %d", times.max, client.stats.pending_events)
immudb.start
stats = state.call(:STATE_CONNECTED)
check "ImmuDB is back, and has everything", [stats.state, stats.pending_events] == [:STATE_CONNECTED, 0],
  stats
texts = client.load("hall").events.drop(2).map { |event| event.data["description"] }
check "every event is there, once and in order", texts == (0...60).map { |number| "Text #{number}." }, texts
immudb.kill
puts "#{CHECKS.size} checks, #{CHECKS.count(true)} passed"
exit!(CHECKS.all? ? 0 : 1)
