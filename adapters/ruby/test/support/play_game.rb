# frozen_string_literal: true

# Owns a play of the stand-in of Aethyr, in a process of its own: prints what it found as JSON.
require "json"
require_relative "sequent"
require "aethyr/core/components/manager"

found = { enabled: ServerConfig[:event_sourcing_enabled] }
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
      rebuilt: $manager.rebuild_world_state&.damaged_total,
      again: Aethyr::EventStore::Compat.install.size, handlers: Aethyr::Extend::HandlerRegistry.handlers.size
    )
    player = Struct.new(:name, :container, :lines, :handlers) do
      def subscribe(handler) = handlers << handler
      def output(text) = lines << text
      def goid = "alice"
    end.new("Alice", room, [], [])
    Aethyr::Extend::HandlerRegistry.handlers.each { |handler| handler.object_added(game_object: player) }
    ["ahistory here", "ahistory #{room} 1", "ahistory nothing", "astore", "adeeds alice", "adeeds nobody",
     "look", "adeeds 3"]
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
    5.times { $manager.storage.store_object("another") }
    found[:outage] = Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
    found[:gone] = $manager.event_store_stats[:state]
    found[:log] = $log_lines
  end
rescue StandardError => e
  found[:error] = "#{e.class}: #{e.message} #{e.backtrace.first(3)}"
end
puts JSON.generate(found)
