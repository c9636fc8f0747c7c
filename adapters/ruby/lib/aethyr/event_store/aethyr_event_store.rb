# frozen_string_literal: true

# Owns the methods of Aethyr's ImmudbEventStore, on the event store for Sequent. It takes the place of that
# class.
require "set"
require "aethyr/event_store/sequent_event_store"

module Aethyr
  module EventStore
    class AethyrEventStore < SequentEventStore
      DEFAULT_RETRY_COUNT = 3
      DEFAULT_RETRY_DELAY = 0.5
      TRIES = 10
      # Type of an aggregate whose events are not Aethyr's.
      OTHER_TYPE = "Aggregate"

      # The configuration of Aethyr: `:event_store_address` (or a connection string), and `:on_unavailable`,
      # `:event_store_limit`, `:event_store_again`.
      def initialize(config = {})
        address = config[:event_store_address] || config[:service] || setting(:event_store_address) ||
                  ENV["AETHYR_EVENT_STORE_ADDRESS"] || "127.0.0.1:50051"
        super(address, client: config[:event_store_client],
                       limit: config.fetch(:event_store_limit) { setting(:event_store_limit) || 0.5 },
                       again: config[:event_store_again] || setting(:event_store_again) || 5,
                       on_unavailable: (config[:on_unavailable] || setting(:event_store_on_unavailable) ||
                                        :log).to_sym,
                       logger: config[:logger] || method(:game_log),
                       snapshot_key: config[:event_store_snapshot_key] || setting(:event_store_snapshot_key))
        own_state(config)
      end

      # Events without a command. They follow the last event of their aggregate, whichever number they have.
      def store_events(events, streams = nil)
        return commit_events(events, streams) if streams
        return if events.empty?

        tries = 0
        begin
          records, expected = follow(events)
          append(records, expected, [])
          records.map(&:aggregate_id).tally.each { |id, number| @event_counters[id] = expected[id] + number }
        rescue OptimisticLockingError
          retry if (tries += 1) < TRIES
          raise
        end
        nil
      end

      # Aethyr takes no snapshots. An object with many events gets one in the background, so that loading it
      # stays quick.
      def load_events_for_aggregates(ids)
        super
      rescue DeadlineExceeded => e
        snapshot_later(ids) if e.answered
        raise
      end

      # The events alone, without the snapshot: what Aethyr and its documentation expect.
      def load_events(id)
        events = all_events(id)
        count(:events_loaded, events.size)
        events
      end

      # Saves an event as the snapshot of an aggregate.
      def store_snapshot(id, event)
        data = { "class" => event.class.name, "event" => EventCodec.content(event) }
        save(id, event.sequence_number, data, EVENT_SNAPSHOTS)
      end

      def load_snapshot(id) = load_latest_snapshot(id)

      def get_aggregate_sequence(id)
        @event_counters[id] = last_sequence(id)
      end

      def ensure_database_exists = nil

      def reset!
        raise NotSupported, "reset! is not possible: stored events are never deleted. Give a test a " \
                            "service of its own: Aethyr::EventStore::TestService"
      end

      # The counters of this store, and the totals of the service under the names of Aethyr.
      def statistics
        stats = read { |left| client.stats(deadline: left) }
        types = stats.event_types.to_h.transform_keys { |name| EventCodec::EVENTS.long(name) }
        metrics.merge(kept_appends: @kept.size, event_count: stats.event_count,
                      aggregate_count: stats.aggregate_count,
                      snapshot_count: stats.snapshot_count, event_types: types, state: stats.state,
                      pending_events: stats.pending_events, last_position: stats.last_position,
                      version: stats.version)
      rescue AethyrError => e
        state = Breaker.gone?(e) ? :UNREACHABLE : :UNKNOWN
        metrics.merge(kept_appends: @kept.size, state: state, error: e.message)
      end

      # The text of an event as it is stored, and the event from such a text.
      def serialize_event(event, sequence_number)
        JSON.generate(EventCodec.content(event).merge("class" => event.class.name,
                                                      "sequence_number" => sequence_number,
                                                      "aggregate_id" => event.aggregate_id))
      end

      def deserialize_event(text)
        data = JSON.parse(text)
        EventCodec.build(Object.const_get(data.delete("class")), data,
                         aggregate_id: data["aggregate_id"], sequence_number: data["sequence_number"])
      end

      # A Hash keeps its keys here, as in Aethyr.
      def deep_serialize(value)
        value.is_a?(Hash) ? value.transform_values { |each| deep_serialize(each) } : Markers.dump(value)
      end

      def deep_deserialize(value) = Markers.load(value)

      private

      # What subclasses and tests of Aethyr's class read of it. The service needs no files; the client retries
      # itself.
      def own_state(config)
        @use_immudb = false
        @storage_path = config[:storage_path] || "storage/events"
        @retry_count = config[:retry_count] || DEFAULT_RETRY_COUNT
        @retry_delay = config[:retry_delay] || DEFAULT_RETRY_DELAY
        @due = []
        @without_snapshot = Set.new
        @event_counters = defined?(::Concurrent::Map) ? ::Concurrent::Map.new : {}
      end

      def with_retries
        tries = 0
        begin
          yield
        rescue StandardError
          count(:store_failures) if tries >= @retry_count
          raise if (tries += 1) > @retry_count

          sleep(@retry_delay * tries)
          retry
        end
      end

      def stored(answer)
        due = answer.aggregates.select(&:snapshot_due).map(&:aggregate_id)
        due.reject! { |id| UniqueKeys.id?(id) || @without_snapshot.include?(id) }
        snapshot_later(due) if due.any?
      end

      def snapshot_later(ids)
        @lock.synchronize do
          @due |= ids
          @taker = Thread.new { take_snapshots } if @due.any? && !@taker&.alive?
        end
      end

      def take_snapshots
        Thread.current[PATIENT] = Thread.current[Markers::IDS] = true
        while (id = @lock.synchronize { @due.shift })
          take_snapshot(id)
        end
      end

      def take_snapshot(id)
        repository = ::Sequent.aggregate_repository
        store_snapshots([repository.load_aggregate(id).take_snapshot])
      rescue AethyrError => e
        @logger.call("[event store] no snapshot of #{id} now: #{e.message}")
      rescue StandardError => e
        @lock.synchronize { @without_snapshot << id }
        @logger.call("[event store] #{id} gets no snapshots: #{e.message}")
      ensure
        repository&.clear
      end

      def follow(events)
        ids = events.map(&:aggregate_id).uniq
        found = read { |left| client.load_many(ids, deadline: left) }.to_h do |each|
          [each.aggregate_id, each]
        end
        records = events.map do |each|
          type = found[each.aggregate_id].aggregate_type
          type = type_by(events, each.aggregate_id) if type.empty?
          EventCodec.new_event(each, each.aggregate_id, type)
        end
        [records, found.transform_values(&:last_sequence)]
      end

      # Aethyr's events do not name the type of their aggregate. Events of other classes are not of the world.
      def type_by(events, id)
        names = events.select { |each| each.aggregate_id == id }.map { |each| each.class.name }
        return OTHER_TYPE unless names.any? { |name| name.start_with?(Names::EVENTS) }

        names = names.map { |name| EventCodec::EVENTS.short(name) }
        return "Player" if names.include?("PlayerCreated")

        names.include?("RoomCreated") ? "Room" : "GameObject"
      end

      def setting(name) = defined?(::ServerConfig) ? ::ServerConfig[name] : nil

      def game_log(message) = log(message, 1)
    end
  end
end
