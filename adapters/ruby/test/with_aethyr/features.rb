# frozen_string_literal: true

# Owns the run of Aethyr's own scenarios for its event store, with the event store of this gem in its place: a
# small reader of Gherkin, because Debian's cucumber does not know Cucumber Expressions. A service for each
# scenario. Scenarios that cannot pass stand in REASONS; a scenario that fails without a reason, or passes
# with one, is an error.
$stdout.sync = true
require "tmpdir"
require "fileutils"
require "set"
require "concurrent"
require "sequent"
require "aethyr/event_store/test_service"
require "aethyr/core/util/config"
ServerConfig.load[:log_level] = 0
require "aethyr/core/objects/game_object"
require "aethyr/core/event_sourcing/immudb_event_store"
unless Aethyr::Core::EventSourcing::ImmudbEventStore == Aethyr::EventStore::AethyrEventStore
  abort("not the event store of this gem")
end

MOCK = "looks into a mock of the ImmuDB client"
FILES = "looks for files in the layout of Aethyr's fallback"
RESET = "reset! is refused: stored events are never deleted"
AHEAD = "saves a snapshot of an aggregate without events: SNAPSHOT_AHEAD"
REASONS = {
  "Core store_events writes events to file-based storage" => FILES,
  "Core store_events with ImmuDB path" => MOCK,
  "Core load_events via ImmuDB path" => MOCK,
  "Core store_snapshot in file-based mode" => AHEAD,
  "Core store_snapshot via ImmuDB" => MOCK,
  "Core load_snapshot from file-based storage" => AHEAD,
  "Core load_snapshot via ImmuDB with key found" => MOCK,
  "Core load_snapshot via ImmuDB with other error re-raises" => MOCK,
  "Core get_aggregate_sequence via ImmuDB with existing sequence" => MOCK,
  "Core get_aggregate_sequence reads from existing sequence file" => FILES,
  "Core serialize_event produces marshaled binary" => "wants Marshal; the gem writes JSON",
  "Core reset! in file-based mode clears everything" => RESET,
  "Core reset! in ImmuDB mode clears via scan and delete" => RESET,
  "Core statistics in file-based mode with no directory" => FILES
}.freeze

STEPS = []
HOOKS = { before: [], after: [] }.freeze
WORLD = Class.new

# The words of the step definitions.
module Gherkin
  TYPES = { "string" => ['"([^"]*)"', :to_s], "int" => ['(-?\d+)', :to_i], "float" => ['(-?\d+\.\d+)', :to_f],
            "word" => ['(\S+)', :to_s] }.freeze

  %w[Given When Then And But].each do |word|
    define_method(word) do |pattern, &block|
      converters = []
      unless pattern.is_a?(Regexp)
        source = Regexp.escape(pattern).gsub(/\\\{(\w+)\\\}/) do
          regexp, converter = TYPES.fetch(Regexp.last_match(1))
          converters << converter
          regexp
        end
        pattern = /\A#{source}\z/
      end
      STEPS << [pattern, converters, block]
    end
  end

  def World(*modules) = WORLD.include(*modules)
  def Before(*, &block) = HOOKS[:before] << block
  def After(*, &block) = HOOKS[:after].unshift(block)
end
extend Gherkin
Object.include(Gherkin)

def scenarios(file)
  background = []
  found = []
  current = nil
  File.readlines(file, chomp: true).each do |line|
    case line.strip
    when /\ABackground:/ then current = background
    when /\AScenario: (.*)/ then found << [Regexp.last_match(1), current = background.dup]
    when /\A(?:Given|When|Then|And|But) (.*)/ then current << Regexp.last_match(1)
    end
  end
  found
end

def play_scenario(steps)
  Aethyr::EventStore::TestService.run do |service|
    ENV["AETHYR_EVENT_STORE_ADDRESS"] = service.address
    ServerConfig.load[:event_store_address] = service.address
    world = WORLD.new
    HOOKS[:before].each { |hook| world.instance_exec(&hook) }
    steps.each do |step|
      pattern, converters, block = STEPS.find { |each, _, _| each.match?(step) } || raise("no step: #{step}")
      given = pattern.match(step).captures.each_with_index.map do |text, i|
        text.public_send(converters[i] || :to_s)
      end
      world.instance_exec(*given, &block)
    end
    HOOKS[:after].each { |hook| world.instance_exec(&hook) }
    nil
  rescue Exception => e # Assertions of test-unit are no StandardError.
    e
  end
end

# The step definitions also load Aethyr's second store, which is not tested here and needs this gem.
$LOADED_FEATURES << "immudb.rb"
module Immudb
  Client = Class.new
  Error = Class.new(StandardError)
end

tests = File.join(ENV.fetch("AETHYR_SOURCES"), "tests/unit")
load File.join(tests, "step_definitions/immudb_event_store_steps.rb")
all = scenarios(File.join(tests, "immudb_event_store.feature")).select { |name, _| name.start_with?("Core ") }
wrong = 0
results = all.map do |name, steps|
  error = play_scenario(steps)
  reason = REASONS[name]
  wrong += 1 if error.nil? == !reason.nil?
  if error.nil? then puts "#{reason ? "PASSED (#{reason})" : "ok"} #{name}"
  elsif reason then puts "known #{name}: #{reason}"
  else
    puts "FAILED #{name}: #{error.class}: #{error.message.lines.first(3).join(" ").chomp} " \
         "#{error.backtrace.first(2)}"
  end
  error.nil?
end
puts "#{results.size} scenarios, #{results.count(true)} passed, #{REASONS.size} with a reason, " \
     "#{wrong} wrong"
exit!(wrong.zero? ? 0 : 1)
