# frozen_string_literal: true

# Owns the migration of a GDBM world of 5,000 objects with the real Aethyr: below a minute, every object
# equal, and a second run stores nothing. Started by with-aethyr.sh in a folder with Aethyr's conf and
# storage.
$stdout.sync = true
require "open3"
require "rbconfig"
require "aethyr/core/util/config"
ServerConfig.load[:event_sourcing_enabled] = false
ServerConfig.load[:log_level] = 0
require "aethyr/core/components/manager"

OBJECTS = Integer(ENV.fetch("OBJECTS", "5000"))
CHECKS = []
def check(what, right, found = nil)
  CHECKS << right
  puts "#{right ? "ok" : "FAILED"} #{what}#{" (#{found})" unless right}"
end

# ---- a world: rooms with exits both ways, things in them, mobiles that wear something, players with
# passwords
$manager = Class.new do
  def existing_goid?(_) = nil
  def get_object(_) = nil
  def method_missing(*) = nil
  def respond_to_missing?(*) = true
end.new
storage = StorageMachine.new("storage/")
objects = Aethyr::Core::Objects
made = []
rooms = (1..OBJECTS / 5).map do |n|
  room = objects::Room.new(format("aaaaaaaa-0000-0000-0000-%012d", n), nil, "Room #{n}", ["room #{n}"],
                           "A short look.", "Room number #{n}: ü ✓.")
  room.info.terrain = Info.new(type: :forest, indoors: n.odd?)
  room.info.visits = n * 1000
  made << room
  room
end
rooms.each.with_index do |room, n|
  exit_ = objects::Exit.new(rooms[(n + 1) % rooms.size].goid, format("bbbbbbbb-0000-0000-0000-%012d", n),
                            room.goid, "", %w[n north])
  room.inventory << exit_
  made << exit_
end
rooms.first(OBJECTS / 10).each.with_index do |room, n|
  mobile = objects::Mobile.new(format("cccccccc-0000-0000-0000-%012d", n), room.goid, "a guard", ["guard"])
  mobile.info.stats.health = 50 + (n % 50)
  mobile.info.tags = Set[:calm, "old"]
  shirt = Aethyr::Extensions::Objects::Shirt.new(format("dddddddd-0000-0000-0000-%012d", n), nil)
  mobile.equipment.wear(shirt)
  room.inventory << mobile
  made.push(mobile, shirt)
end
number = 0
while made.size < OBJECTS
  room = rooms[number % rooms.size]
  thing = objects::GameObject.new(format("eeeeeeee-0000-0000-0000-%012d", number += 1), room.goid,
                                  "thing #{number}", [], "", "Long.", "thing")
  thing.info.owner = number.even? ? room.goid : :nobody
  thing.instance_variable_set(:@attributes, { "weight" => number / 3.0, :big => 2**60 })
  room.inventory << thing
  made << thing
end
# GDBM is written in one go: StorageMachine#store_object opens and syncs two files for each object.
made.group_by(&:class).each do |type, list|
  storage.open_store(type, false) do |gd|
    list.each do |each|
      kept = each.dehydrate
      gd[each.goid] = Marshal.dump(each)
      each.rehydrate(kept)
    end
  end
end
storage.open_store("goids", false) { |gd| made.each { |each| gd[each.goid] = each.class.to_s } }

# ---- the migration, as an administrator runs it
def migrate(*arguments)
  paths = ENV.fetch("RUBY_PATHS").split
  exe = File.expand_path("../../exe/aethyr-event-store-migrate", __dir__)
  began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  out, err, status = Open3.capture3(RbConfig.ruby, "-W0", "-rlogger", "-rset", *paths, exe, *arguments)
  [out, err, status, Process.clock_gettime(Process::CLOCK_MONOTONIC) - began]
end

out, err, = migrate("--dry-run")
puts out, err.lines.last(3)
check "a dry run stores nothing", out.include?(" 0 events stored (dry run)"), out
out, err, status, seconds = migrate("--address", ENV.fetch("SERVICE"))
puts out, err.lines.grep_v(/\A(objects|places|equipment|exits):/).last(12)
puts format("first run: %.1f s", seconds)
check "it takes below a minute", seconds < 60, seconds
out, _, status, seconds = migrate("--address", ENV.fetch("SERVICE"), "--compare")
puts out
puts format("second run, with the comparison: %.1f s", seconds)
check "the second run stores nothing", out.match?(/commands, 0 events stored/), out
check "every object is equal", out.include?("0 differences"), out
puts "exit code: #{status.exitstatus}"
puts "#{CHECKS.size} checks, #{CHECKS.count(true)} passed"
exit!(CHECKS.all? ? 0 : 1)
