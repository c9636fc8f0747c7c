# frozen_string_literal: true

# Owns the migration of a GDBM world of 5,000 objects with the real Aethyr: below a minute, every object
# equal, a second run stores nothing, and changes there and back are carried over. Before it, the game plays
# and saves its own world, and that is migrated. Started by with-aethyr.sh in a folder with Aethyr's conf and
# storage.
$stdout.sync = true
require "fileutils"
require "open3"
require "rbconfig"
require "aethyr/event_store/test_service"
require_relative "no_connection"
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
players = (1..10).map do |n|
  player = objects::Player.new(NoConnection.new, format("ffffffff-0000-0000-0000-%012d", n), rooms[n].goid,
                               "Player#{n}")
  player.instance_variable_set(:@admin, n == 1)
  rooms[n].inventory << player
  made << player
  player
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
storage.open_store("players", false) { |gd| players.each { |each| gd[each.name.downcase] = each.goid } }
storage.open_store("passwords", false) do |gd|
  players.each { |each| gd[each.goid] = Digest::MD5.hexdigest(each.name) }
end

# ---- the migration, as an administrator runs it
def migrate(*arguments, folder: ".")
  paths = ENV.fetch("RUBY_PATHS").split
  exe = File.expand_path("../../exe/aethyr-event-store-migrate", __dir__)
  began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  out, err, status = Open3.capture3(RbConfig.ruby, "-W0", "-rlogger", "-rset", *paths, exe, *arguments,
                                    chdir: folder)
  $stderr.puts err if out.empty?
  [out, err, status, Process.clock_gettime(Process::CLOCK_MONOTONIC) - began]
end

def stored(out) = out[/(\d+) events stored/, 1].to_i
def equal?(out) = out.match?(/^0 differences/)

# A loaded inventory is a list of [id, position], which cannot be saved again.
def pairs(inventory) = inventory.instance_variable_get(:@ghash)

def fill(inventory, pairs)
  inventory.instance_variable_set(:@ghash, pairs.map(&:first))
  places = pairs.reject { |_, place| place.nil? }
  inventory.instance_variable_set(:@grid, places.to_h { |id, place| [place, id] })
end

# Changes a saved object by its variables. The block may return another content of its inventory.
def change(storage, object)
  storage.open_store(object.class, false) do |file|
    saved = Marshal.load(file[object.goid])
    before = [saved.instance_variable_get(:@inventory),
              saved.instance_variable_get(:@equipment)&.instance_variable_get(:@inventory)].compact
    content = yield saved
    before.each { |inventory| fill(inventory, pairs(inventory)) }
    fill(before.first, content) if content.is_a?(Array)
    file[object.goid] = Marshal.dump(saved)
  end
end

# ---- the game first: it plays and saves Aethyr's own world, and then that is migrated
Aethyr::EventStore::TestService.run do |service|
  folder = File.join(service.folder, "game")
  FileUtils.cp_r(File.join(ENV.fetch("AETHYR_SOURCES"), "tests/integration/server_bootstrap"), folder)
  FileUtils.mkdir_p(File.join(folder, "logs"))
  File.open(File.join(folder, "conf/config.yaml"), "a") do |file|
    file.puts ":event_store_address: #{service.address}"
  end
  game = <<~RUBY
    require "aethyr/core/util/config"
    require "aethyr/core/components/manager"
    $manager = nil
    $manager = Manager.new
    $manager.create_object(Aethyr::Core::Objects::Room, nil, nil, nil, { :@name => "New" })
    $manager.save_all
    exit!(0)
  RUBY
  system(RbConfig.ruby, "-W0", "-rlogger", "-rset", *ENV.fetch("RUBY_PATHS").split,
         "-raethyr/event_store/aethyr", "-e", game, chdir: folder)
  client = Aethyr::EventStore::Client.new(service.url)
  check "the game has recorded rooms as rooms", client.list_aggregates(type: "Room").count > 1
  out, = migrate("--compare", folder: folder)
  puts out
  check "what the game has recorded is carried over", stored(out).positive? && equal?(out), out
  check "and nothing of it twice", stored(migrate(folder: folder).first).zero?
  client.close
end

# ---- the large world
out, err, = migrate("--dry-run")
puts out, err.lines.last(1)
check "a dry run stores nothing", out.include?(" 0 events stored (dry run)"), out
out, err, status, seconds = migrate("--address", ENV.fetch("SERVICE"))
puts out, err.lines.last(1)
puts format("first run: %.1f s", seconds)
check "it takes below a minute", seconds < 60, seconds
out, _, status, seconds = migrate("--address", ENV.fetch("SERVICE"), "--compare")
puts out
puts format("second run, with the comparison: %.1f s", seconds)
check "the second run stores nothing", out.match?(/ 0 commands, 0 events stored/), out
check "every object is equal", equal?(out), out
puts "exit code: #{status.exitstatus}"

# ---- changes there and back
FileUtils.cp_r("storage", "before")
things = made.select { |each| each.instance_of?(objects::GameObject) }
CHANGED = [100, things.size / 2].min
gone = things.last
things.first(CHANGED).each.with_index do |thing, n|
  change(storage, thing) do |saved|
    saved.instance_variable_set(:@short_desc, "Changed #{n}")
    saved.instance_variable_set(:@movable, nil) if n.odd?
    saved.remove_instance_variable(:@article) if n.even?
  end
end
# What lay in the first rooms lies in the last one; an exit, a shirt and an administrator are none any more.
first, last = rooms.first(10), rooms.last
moved = []
first.each do |room|
  change(storage, room) do |saved|
    taken, kept = pairs(saved.inventory).partition { |id, _| id.start_with?("eee") }
    moved += taken
    kept
  end
end
change(storage, last) { |saved| pairs(saved.inventory) + moved }
change(storage, first[0]) { |saved| saved.instance_variable_set(:@long_desc, "Another look.") }
exit_ = made.find { |each| each.is_a?(objects::Exit) }
change(storage, exit_) { |saved| saved.instance_variable_set(:@exit_room, last.goid) }
guard = made.find { |each| each.instance_of?(objects::Mobile) }
change(storage, guard) { |saved| saved.instance_variable_set(:@equipment, Equipment.new(guard.goid)) }
change(storage, players.first) { |saved| saved.instance_variable_set(:@admin, false) }
storage.open_store("passwords", false) { |file| file[players.first.goid] = Digest::MD5.hexdigest("another") }
storage.open_store("goids", false) { |file| file.delete(gone.goid) }
storage.open_store(gone.class, false) { |file| file.delete(gone.goid) }

out, _, _, seconds = migrate("--address", ENV.fetch("SERVICE"), "--compare")
puts out.lines.first(8)
puts format("after changes: %.1f s", seconds)
check "changes are stored", stored(out) > CHANGED, out
check "every object is equal after changes", equal?(out), out.lines.first(20).join
check "what was deleted is reported",
  out.include?("#{gone.goid} (#{gone.class}): is in the service, and no longer in the storage")
FileUtils.rm_rf("storage")
FileUtils.mv("before", "storage")
out, = migrate("--address", ENV.fetch("SERVICE"), "--compare")
puts out.lines.first(8)
check "the changes back are stored", stored(out) > CHANGED, out
check "every object is equal after the changes back", equal?(out), out.lines.first(20).join
out, = migrate("--address", ENV.fetch("SERVICE"))
check "and a last run stores nothing", out.match?(/ 0 commands, 0 events stored/), out
puts "#{CHECKS.size} checks, #{CHECKS.count(true)} passed"
exit!(CHECKS.all? ? 0 : 1)
