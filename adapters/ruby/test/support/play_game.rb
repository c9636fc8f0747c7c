# frozen_string_literal: true

# Owns a play of the stand-in of Aethyr, in a process of its own: prints what it found as JSON.
require "json"
require_relative "sequent"
require "aethyr/core/components/manager"

# Objects that the game records first: by its storage, and while it makes them.
def play_kinds(client)
  objects = Aethyr::Core::Objects
  storage = $manager.storage
  prefix = "kinds-#{rand(10**12)}"
  hall = objects::Room.new("#{prefix}-hall", name: "Hall", long_desc: "caf\xE9")
  alice = objects::Player.new("#{prefix}-alice", name: "Alice", container: hall.goid)
  bob = objects::Player.new("#{prefix}-bob", name: "Bob")
  storage.files["passwords"][alice.goid] = "5ebe2294ecd0e08f08eab7690d2a6ee6"
  [hall, alice, bob].each { |each| storage.store_object(each) }
  cave = $manager.create_object(objects::Cavern, hall.goid)
  stone = $manager.create_object(objects::GameObject, hall.goid)
  2.times { storage.set_password(alice, "6ebe2294ecd0e08f08eab7690d2a6ee6") }
  # Nothing hinders the next one.
  storage.set_password(objects::Player.new("#{prefix}-nobody", name: "x"), "7ebe2294ecd0e08f08eab7690d2a6ee6")
  disk = begin
    storage.store_object(objects::Room.new("#{prefix}-heavy", name: "heavy"))
  rescue IOError => e
    e.message
  end
  { hall: client.get_room(hall.goid).description,
    cave: client.get_room(cave.goid).object.container_id == hall.goid,
    alice: alice.goid, password: client.get_player(alice.goid).password_hash,
    inside: client.get_player(alice.goid).object.container_id == hall.goid,
    bob: client.get_player(bob.goid).password_hash, stone: client.get_game_object(stone.goid).aggregate_type,
    disk: disk }
end

found = { enabled: ServerConfig[:event_sourcing_enabled],
          has: ServerConfig.has_setting?(:event_store_address) }
ServerConfig[:log_level] = 2
begin
  $manager = Manager.new
  if ServerConfig[:event_sourcing_enabled]
    store = Sequent.configuration.event_store
    found[:store] = store.class.name
  end
  if found[:store] == "Aethyr::EventStore::AethyrEventStore"
    es = Aethyr::Core::EventSourcing
    room = "room-#{Process.pid}-#{rand(10**9)}"
    run = ->(command) { Sequent.command_service.execute_commands(command) }
    run.call(es::CreateRoom.new(id: room, name: "Hall", description: "A hall."))
    run.call(es::UpdateGameObjectAttribute.new(id: room, key: "tags", value: Set[:dark, "old"]))
    run.call(es::UpdateGameObjectContainer.new(id: room, container_id: nil))
    Aethyr::EventStore::Actor.as("Alice") do
      run.call(es::UpdateRoomDescription.new(id: room, description: "A dark hall."))
    end
    loaded = Sequent.aggregate_repository.load_aggregate(room)
    Sequent.aggregate_repository.clear
    loaded.apply_event(es::GameObjectAttributeRemoved.new(aggregate_id: room, sequence_number: 9,
                                                          key: "other"))
    kept = loaded.attributes.keys
    loaded.apply_event(es::GameObjectAttributeRemoved.new(aggregate_id: room, sequence_number: 10,
                                                          key: "tags"))
    found[:removed] = kept - loaded.attributes.keys
    tags = kept.empty? ? nil : Sequent.aggregate_repository.load_aggregate(room).attributes["tags"]
    Sequent.aggregate_repository.clear
    found.update(
      compat: Aethyr::EventStore::Compat.installed.keys, name: loaded.name, description: loaded.description,
      tags: tags == Set[:dark, "old"],
      types: store.client.load(room).events.map { |event| [event.aggregate_type, event.event_type] },
      world: store.client.get_room(room).description, stats: $manager.event_store_stats,
      storage: $manager.storage.class.name,
      rebuilt: $manager.rebuild_world_state&.value&.damaged_total,
      again: Aethyr::EventStore::Compat.install.size, handlers: Aethyr::Extend::HandlerRegistry.handlers.size
    )
    found[:kinds] = play_kinds(store.client)
    player = Struct.new(:name, :container, :admin, :lines, :handlers) do
      def subscribe(handler) = handlers << handler
      def output(text) = lines << text
      def goid = "alice"
    end.new("Alice", room, true, [], [])
    nobody = player.class.new("Bob", room, false, [], [])
    [player, nobody].each do |each|
      Aethyr::Extend::HandlerRegistry.handlers.each { |handler| handler.object_added(game_object: each) }
    end
    found[:nobody] = nobody.handlers.size
    store.client.append({ aggregate_id: "other-#{room}", type: "quest log", event_type: "sword_found",
                          data: {} })
    found[:other] = [store.find_event_stream("other-#{room}").aggregate_type,
                     $manager.event_store_stats[:event_types]["sword_found"]]
    ["ahistory here", "ahistory #{room} 1", "ahistory nothing", "astore", "adeeds alice", "adeeds nobody",
     "look", "adeeds 3", "ahistory #{found[:kinds][:alice]}"]
      .each do |line|
        player.handlers.each { |handler| handler.player_input(input: line) }
        action = $manager.pop_action
        found[:actor] = Aethyr::EventStore::Actor.current if action
        action&.action
      end
    found[:lines] = player.lines
    store.store_events([es::RoomDescriptionUpdated.new(aggregate_id: room, sequence_number: 99,
                                                       description: "Again.")])
    store.store_snapshot(room, store.load_events(room).last)
    found[:aethyr] = [store.load_events(room).size, store.get_aggregate_sequence(room),
                      store.load_snapshot(room).description,
                      store.load_events_for_aggregates([room])[room].size,
                      store.find_event_stream(room)[:events].size,
                      store.find_event_stream(room)[:snapshot_event].class.name.split("::").last]
    Process.kill("KILL", Integer(ENV.fetch("SERVICE_PID")))
    sleep 0.1
    began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    5.times { |n| $manager.storage.store_object(Aethyr::Core::Objects::Room.new("other-#{n}", name: "x")) }
    found[:outage] = Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
    found[:gone] = $manager.event_store_stats[:state]
    found[:rebuilds] = [$manager.rebuild_world_state, es::SequentSetup.rebuild_world_state]
    found[:log] = $log_lines
  end
rescue StandardError => e
  found[:error] = "#{e.class}: #{e.message} #{e.backtrace.first(3)}"
end
puts JSON.generate(found)
