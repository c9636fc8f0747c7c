# frozen_string_literal: true

# Owns the play of the real Aethyr on the real Sequent with this gem: the samples of Aethyr's documentation,
# the manager, the storage, an outage. Started by with-aethyr.sh in a folder with Aethyr's conf and storage.
$stdout.sync = true
require "aethyr/core/util/config"
require "aethyr/core/components/manager"
require_relative "no_connection"

CHECKS = []
def check(what, right, found = nil)
  CHECKS << right
  puts "#{right ? "ok" : "FAILED"} #{what}#{" (found #{found.inspect[0, 300]})" unless right}"
end

def run(command) = Sequent.command_service.execute_commands(command)

STORE_CLASS = "Aethyr::EventStore::AethyrEventStore"
$manager = nil
configuration = File.read("conf/config.yaml")
ServerConfig[:log_level] = 0 # As bin/aethyr does at each start: it saves the configuration.
$manager = Manager.new
check "the configuration has nothing of this gem but the line",
  YAML.load(File.read("conf/config.yaml")) == YAML.load(configuration), File.read("conf/config.yaml")
store = Sequent.configuration.event_store
client = store.client
check "event_store_address is all that the configuration needs", store.class.name == STORE_CLASS, store.class
puts "compat: #{Aethyr::EventStore::Compat.installed.keys.join(", ")}"

# ---- samples of Aethyr's documentation (docs/event_sourcing_documentation.md, part 5)
run Aethyr::Core::EventSourcing::CreateGameObject.new(id: "obj-123", name: "Magic Sword", generic: "sword",
                                                      container_id: "room-456")
run Aethyr::Core::EventSourcing::UpdateGameObjectAttribute.new(id: "obj-123", key: "damage", value: 10)
run Aethyr::Core::EventSourcing::UpdateGameObjectAttributes.new(id: "obj-123",
    attributes: { "tags" => Set[:sharp], "weight" => 2.5 })
run Aethyr::Core::EventSourcing::UpdateGameObjectContainer.new(id: "obj-123", container_id: "player-789")
run Aethyr::Core::EventSourcing::CreatePlayer.new(id: "player-123", name: "Gandalf",
                                                  password_hash: Digest::MD5.hexdigest("password"))
run Aethyr::Core::EventSourcing::UpdatePlayerPassword.new(
  id: "player-123", password_hash: Digest::MD5.hexdigest("new_password")
)
run Aethyr::Core::EventSourcing::UpdatePlayerAdminStatus.new(id: "player-123", admin: true)
run Aethyr::Core::EventSourcing::CreateRoom.new(id: "room-123", name: "Forest Clearing",
                                                description: "A peaceful clearing.")
run Aethyr::Core::EventSourcing::UpdateRoomDescription.new(id: "room-123", description: "A sunlit clearing.")
run Aethyr::Core::EventSourcing::AddRoomExit.new(id: "room-123", direction: "north",
                                                 target_room_id: "room-456")
sword = Sequent.aggregate_repository.load_aggregate("obj-123")
Sequent.aggregate_repository.clear
check "attributes of any type come back", sword.attributes["tags"] == Set[:sharp] &&
  sword.attributes["damage"] == 10, sword.attributes
check "the sword was moved", sword.container_id == "player-789", sword.container_id
room = Sequent.aggregate_repository.load_aggregate("room-123")
Sequent.aggregate_repository.clear
check "a room has its name and its exit", room.name == "Forest Clearing" &&
  room.exits == { "north" => "room-456" }, room
check "the world of the service has the room", client.get_room("room-123").description == "A sunlit clearing."
player = client.get_player("player-123")
check "the world of the service has the player", player.admin &&
  player.password_hash == Digest::MD5.hexdigest("new_password")
history = store.load_events("room-123")
check "the history of the room", history.map { |e| e.class.name.split("::").last } ==
                                 %w[GameObjectCreated RoomCreated RoomDescriptionUpdated RoomExitAdded],
                                   history
check "load_events_for_aggregates answers like a Hash",
  store.load_events_for_aggregates(%w[room-123 obj-123])["obj-123"].size == 4
stats = $manager.event_store_stats
check "$manager.event_store_stats", stats[:event_count] == 12 &&
  stats[:event_types]["Aethyr::Core::EventSourcing::RoomCreated"] == 1, stats
report = $manager.rebuild_world_state.value
check "rebuild_world_state: nothing is damaged", report && report.damaged_total.zero?, report&.damaged.to_a

# ---- the world of the service, read by Aethyr's aggregates
client.execute([{ update_room_description: { id: "room-123", description: "By a command of the service." } },
                { update_game_object_attribute: { id: "room-123", key: "light", value: 3 } },
                { update_game_object_attribute: { id: "room-123", key: "fog", value: true } }])
removed = begin
  client.execute({ remove_game_object_attribute: { id: "room-123", key: "fog" } })
rescue Aethyr::EventStore::InvalidArgument
  puts "skipped: this service has no RemoveGameObjectAttribute"
end
room = Sequent.aggregate_repository.load_aggregate("room-123")
Sequent.aggregate_repository.clear
check "Aethyr reads what the service wrote", room.description == "By a command of the service." &&
  room.attributes["light"] == 3, room
check "and what it removed", !room.attributes.key?("fog"), room.attributes if removed

# ---- the manager and its storage
def last_event(client, id) = client.load(id, backwards: true, limit: 1).events.first
thing = $manager.create_object(Aethyr::Extensions::Objects::Sword)
check "create_object is recorded", last_event(client, thing.goid)&.event_type == "GameObjectCreated",
  last_event(client, thing.goid)
thing.long_desc = "A long sword."
check "long_desc= is recorded", last_event(client, thing.goid).data == { "key" => "long_desc",
    "value" => "A long sword." }, last_event(client, thing.goid)
thing.container = "room-123"
check "container= is recorded", client.get_game_object(thing.goid).container_id == "room-123"
thing.container = nil
check "container = nil is recorded", client.get_game_object(thing.goid).container_id == "",
  client.get_game_object(thing.goid)
$manager.save_all
check "save_all records every object", $manager.game_objects_count.positive? &&
  $manager.find_all("class", Aethyr::Core::Objects::Room).to_a.all? { |o| client.load(o.goid).exist? }

# ---- rooms and players are recorded as such, whoever records them first
hall = $manager.create_object(Aethyr::Core::Objects::Room, nil, nil, nil, { :@name => "New hall" })
check "create_object(Room) makes a room", client.get_room(hall.goid).object.name == "New hall"
old = Aethyr::Core::Objects::Room.new(nil, nil, "Old hall", [], "", "Long.")
$manager.storage.store_object(old)
check "the first save of a room makes a room", client.get_room(old.goid).description == "Long."
lost = Aethyr::Core::Objects::Player.new(NoConnection.new, nil, hall.goid, "Lost")
$manager.storage.open_store("passwords", false) { |file| file[lost.goid] = Digest::MD5.hexdigest("x") }
$manager.storage.store_object(lost)
check "the first save of a player makes a player",
  client.get_player(lost.goid).password_hash == Digest::MD5.hexdigest("x")
nameless = Aethyr::Core::Objects::GameObject.new
$manager.storage.store_object(nameless)
check "a thing without a name is recorded", client.load(nameless.goid).exist?

# ---- a thing with many events gets a snapshot
300.times { |n| thing.long_desc = "Text #{n}." }
snapshot = nil
100.times do
  break if (snapshot = client.load_snapshot(thing.goid))

  sleep 0.05
end
check "an object with many events gets a snapshot", !snapshot.nil?
again = Sequent.aggregate_repository.load_aggregate(thing.goid)
Sequent.aggregate_repository.clear
check "and is read from it",
  again.attributes["long_desc"] == "Text 299." && store.metrics[:snapshots_loaded].positive?, again.attributes

# ---- the commands for administrators, on Aethyr's registry, handlers and actions
Playing = Class.new(Aethyr::Core::Objects::Player) do
  attr_reader :lines, :handlers, :help_library, :goid, :container, :admin, :name

  def initialize(name, admin)
    @name, @admin, @goid, @container = name, admin, "player-123", "room-123"
    @lines, @handlers, @help_library = [], [], Aethyr::Core::Help::HelpLibrary.new
  end

  def subscribe(handler) = handlers << handler
  def output(text, *) = lines << text
end
registered = Aethyr::Extend::HandlerRegistry.get_handlers.find do |each|
  each.name.to_s.start_with?("Aethyr::EventStore")
end
admin, nobody = Playing.new("Gandalf", true), Playing.new("Bob", false)
[admin, nobody].each { |each| registered.object_added(game_object: each) }
check "only administrators have the commands", [admin, nobody].map { |each| each.handlers.size } == [1, 0]
["ahistory here", "astore", "adeeds", "ahistory player-123"].each do |line|
  admin.handlers.each { |handler| handler.player_input(input: line) }
  $manager.pop_action.action
end
check "AHISTORY", admin.lines[0].to_s.include?("RoomDescriptionUpdated"), admin.lines[0]
check "ASTORE", admin.lines[1].to_s.include?("STATE_LOCAL_ONLY"), admin.lines[1]
check "ADEEDS", admin.lines.size == 4, admin.lines[2]
check "AHISTORY shows no password", admin.lines[3].include?("(changed)") && !admin.lines[3].match?(/\h{32}/),
  admin.lines[3]
thing.long_desc = "By Gandalf."
check "who did it is recorded", last_event(client, thing.goid).metadata["actor"] == "Gandalf"

# ---- a conflict
one = Sequent.aggregate_repository.load_aggregate("obj-123")
client.append({ aggregate_id: "obj-123", event_type: "GameObjectAttributeUpdated",
                data: { key: "damage", value: 11 } }, expect: :any)
one.update_attribute("damage", 12)
conflict = begin
  Sequent.aggregate_repository.commit(Aethyr::Core::EventSourcing::DeleteGameObject.new(id: "obj-123"))
rescue Sequent::Core::EventStore::OptimisticLockingError => e
  e
end
Sequent.aggregate_repository.clear
check "a conflict is an OptimisticLockingError",
  conflict.is_a?(Sequent::Core::EventStore::OptimisticLockingError), conflict
before = client.stats.last_position
refused = begin
  Sequent.command_service.execute_commands(
    Aethyr::Core::EventSourcing::CreateRoom.new(id: "room-a", name: "A", description: "a"),
    Aethyr::Core::EventSourcing::UpdateRoomDescription.new(id: "no-such-room", description: "a")
  )
rescue Sequent::Core::AggregateRepository::AggregateNotFound => e
  e
end
check "one execute_commands is one append: all or none", refused && client.stats.last_position == before,
  refused

# ---- the service is gone
if (pid = ENV["SERVICE_PID"])
  Process.kill("KILL", Integer(pid))
  sleep 0.1
  slow = (1..3).map do |n|
    began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    thing.long_desc = "Without the service #{n}."
    made = $manager.create_object(Aethyr::Extensions::Objects::Sword)
    check "the game goes on without the service", made.is_a?(Aethyr::Extensions::Objects::Sword)
    Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
  end
  check "it waits once", slow[0] < 1 && slow[1] < 0.2 && slow[2] < 0.2, slow
  puts format("outage: %.3f s, then %.3f s, %.3f s", *slow)
end

puts "#{CHECKS.size} checks, #{CHECKS.count(true)} passed"
exit!(CHECKS.all? ? 0 : 1)
