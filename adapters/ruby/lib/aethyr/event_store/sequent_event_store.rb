# frozen_string_literal: true

# Owns the event store for Sequent 8.2 and 9: its public methods, on the client. Snapshots are in
# sequent_snapshots.rb, Aethyr's own methods in aethyr_event_store.rb.
require "aethyr/event_store"
require "aethyr/event_store/breaker"
require "aethyr/event_store/manager_methods"
require "aethyr/event_store/event_codec"
require "aethyr/event_store/sequent_snapshots"
require "aethyr/event_store/transaction"
require "aethyr/event_store/unique_keys"

module Aethyr
  module EventStore
    # The call does not exist here, and the message says what to do instead.
    class NotSupported < AethyrError; end
    # More events than one append may have.
    class TooManyEvents < AethyrError; end

    # `config.event_store = SequentEventStore.new("aethyr://127.0.0.1:50051")`, and
    # `config.transaction_provider = OneAppend.new`.
    class SequentEventStore < ::Sequent::Core::EventStore
      include SequentSnapshots

      APPEND_EVENTS_MAX = 500

      attr_reader :breaker, :metrics

      # `limit`: seconds that a call may take; nil waits as long as the deadline of the client says, without a
      # breaker. `on_unavailable`: `:raise`, or `:log` for a game that goes on: appends that got no answer are
      # kept, and sent again with the same ids when the service is back. `snapshot_key`: a secret; snapshots
      # that are not signed with it are not read.
      def initialize(address = nil, client: nil, limit: 0.5, again: 5, on_unavailable: :raise, logger: nil,
                     snapshot_key: nil)
        unless %i[raise log].include?(on_unavailable)
          raise ArgumentError, "on_unavailable is :raise or :log, not #{on_unavailable.inspect}"
        end

        address = "aethyr://#{address}" if address.is_a?(String) && !address.include?("://")
        @service = client || Client.new(address)
        @breaker = limit ? Breaker.new(limit: limit, again: again) : nil
        @on_unavailable = on_unavailable
        @logger = logger || ->(message) { warn(message) }
        @keys = UniqueKeys.new { |ids| call { |left| @service.load_many(ids, deadline: left) } }
        @kept = []
        @lock = Mutex.new
        @sending = Mutex.new
        @snapshot_key = snapshot_key
        reset_metrics
      end

      # The client that this store calls the service with.
      def client = @service

      def inspect = "#<#{self.class} #{client.options}>"

      # ---- commits

      def commit_events(command, streams_with_events)
        fail ArgumentError, "command is required" if command.nil?

        records, expected = records_of(command, streams_with_events)
        events = streams_with_events.flat_map { |_, list| list }
        if (pending = OneAppend.pending)
          pending.add(records, expected, events, streams_with_events.map(&:first))
        else
          append(records, expected, streams_with_events.map(&:first))
        end
        publish_later(events)
      end

      # The end of a transaction.
      def append_pending(pending)
        append(pending.records, pending.expected, pending.streams) unless pending.empty?
      end

      # ---- loads

      # The stream and its events, from the snapshot on if there is one.
      def load_events(id) = load_events_for_aggregates([id])[0]

      # The events alone, without the snapshot.
      def all_events(id)
        read { |left| client.load(id, deadline: left) }.events.map { |record| event(record) }
      end

      # Pairs of stream and events; aggregates that do not exist are left out.
      def load_events_for_aggregates(ids)
        ids = ids.map(&:to_s).uniq
        return Streams.new if ids.empty?

        found = read { |left| client.load_many(ids, schema_version: SNAPSHOTS, deadline: left) }
        Streams.new(found.select(&:exist?).map { |loaded| pair(usable(loaded)) })
      end

      def stream_exists?(id)
        OneAppend.pending&.last_sequence(id) ? true : last_sequence(id).positive?
      end

      def events_exists?(id) = stream_exists?(id)

      def find_event_stream(id)
        loaded = read { |left| client.load(id, limit: 1, deadline: left) }
        stream(loaded, Stream).tap { |found| Stream::STORES[found] = self } if loaded.exist?
      end

      def load_event(id, sequence_number)
        loaded = read do |left|
          client.load(id, from_sequence: sequence_number, to_sequence: sequence_number, deadline: left)
        end
        loaded.events.first && event(loaded.events.first)
      end

      # Calls the block with [stream, event], without the snapshot.
      def stream_events_for_aggregate(id, load_until: nil)
        loaded = read { |left| client.load(id, recorded_until: load_until, deadline: left) }
        fail ArgumentError, "no stream found for this aggregate" unless loaded.exist?
        fail ArgumentError, "no events for this aggregate" if loaded.events.empty?

        found = stream(loaded)
        loaded.events.each { |record| yield [found, event(record)] }
      end

      # The position of the newest event.
      def position_mark = read { |left| client.stats(deadline: left) }.last_position

      # The events since then, and the new mark.
      def load_events_since_marked_position(mark)
        events = []
        read do |left|
          events = []
          client.read_all(after: mark.to_i, deadline: left) { |record| events << record }
        end
        events.reject! { |record| own?(record) }
        [events.map { |record| event(record) }, events.last&.position || mark]
      end

      # Ids of aggregates in groups.
      def event_streams_enumerator(aggregate_type: nil, group_size: 100)
        type = aggregate_type && EventCodec::AGGREGATES.short(aggregate_type.to_s)
        Enumerator.new do |yielder|
          list = client.list_aggregates(type: type, page_size: [group_size, 1000].min)
          ids = list.lazy.reject { |each| own_type?(each.aggregate_type) }.map(&:aggregate_id)
          ids.each_slice(group_size) { |group| yielder << group }
        end
      end

      def find_aggregate_id_by_unique_key(scope, key) = @keys.owner(scope, key)

      # Publishes all events again, in their order: for read models that are built anew.
      def replay_all_events(after: 0, filter: nil, publisher: ::Sequent.configuration.event_publisher)
        client.read_all(after: after, filter: filter) do |record|
          publisher.publish_events([event(record)]) unless own?(record)
        end
      end

      # Sets the unique keys of streams without an event.
      def update_unique_keys(streams)
        unless streams.all?(::Sequent::Core::EventStream)
          fail ArgumentError, "array of stream records expected"
        end

        records = []
        expected = {}
        @keys.add(streams, records, expected)
        append(records, expected, streams, keys: false) unless records.empty?
      end

      def register_types!(**) = nil

      { replay_events: "replay_all_events", replay_events_from_cursor: "replay_all_events",
        permanently_delete_event_stream: "nothing: stored events are never deleted",
        permanently_delete_event_streams: "nothing: stored events are never deleted",
        permanently_delete_commands_without_events: "nothing: commands without events are not stored" }
        .each do |name, instead|
          define_method(name) do |*, **|
            raise NotSupported, "#{name} is not possible with this event store; use #{instead}"
          end
        end

      private

      # One call to the service, within the breaker. What is kept is sent first, so that the order stays.
      def call
        return yield(nil) if breaker.nil? || Thread.current[SequentSnapshots::PATIENT]

        if @kept.any?
          resend
          left = @kept.size
          raise ServiceGone.new("#{left} kept appends are sent first", code: "UNAVAILABLE") if left.positive?
        end
        breaker.call { |left| yield left }
      end

      def read(&block)
        call(&block)
      rescue AethyrError
        count(:load_failures)
        raise
      end

      def records_of(command, streams_with_events)
        expected = {}
        records = streams_with_events.flat_map do |stream, events|
          next [] if events.empty?

          expected[stream.aggregate_id] = events.first.sequence_number - 1
          events.map do |each|
            EventCodec.new_event(each, stream.aggregate_id, stream.aggregate_type, command)
          end
        end
        @keys.add(with_pending(streams_with_events), records, expected)
        [records, expected]
      end

      def with_pending(streams_with_events)
        streams_with_events.reject { |_, events| events.empty? }.map(&:first)
      end

      def append(records, expected, streams, keys: true)
        return if records.empty?

        if records.size > APPEND_EVENTS_MAX
          raise TooManyEvents, "one execute_commands has #{records.size} events, and one append at most " \
                               "#{APPEND_EVENTS_MAX}: give it fewer commands (worlds: " \
                               "aethyr-event-store-migrate)"
        end
        send_append(V1::AppendEventsRequest.new(events: records, expected_sequences: expected))
      rescue WrongExpectedSequence, EventIdReused => e
        count(:store_failures)
        raise (keys && e.is_a?(WrongExpectedSequence) && @keys.taken(e, streams)) ||
              OptimisticLockingError.new(e.message)
      end

      def send_append(request)
        answer = call { |left| client.append_request(request, deadline: left) }
        count(:events_stored, request.events.size)
        stored(answer)
      rescue WrongExpectedSequence, EventIdReused
        raise
      rescue AethyrError => e
        unanswered = Breaker::GONE.any? { |type| e.is_a?(type) }
        return if unanswered && @on_unavailable == :log && keep(request, e)

        count(:store_failures)
        raise
      end

      # What is done after an append: nothing.
      def stored(_answer) = nil

      KEPT_MAX = 1000

      # False if too much is kept.
      def keep(request, error)
        return false if @lock.synchronize { @kept.size >= KEPT_MAX || !(@kept << request) }

        @logger.call("[event store] #{error.message}; #{request.events.size} events are kept, and sent later")
        true
      end

      # Sends what was kept, in its order and with the same ids: what had been stored is stored once. No
      # caller waits longer than for one call; the next one goes on.
      def resend
        return unless @sending.try_lock

        begin
          over = now + breaker.limit
          while now < over && (request = @lock.synchronize { @kept.first })
            break unless sent?(request, over)

            @lock.synchronize { @kept.shift }
          end
        ensure
          @sending.unlock
        end
      end

      # False if it has to be sent again.
      def sent?(request, over)
        breaker.call { client.append_request(request, deadline: [over - now, 0.001].max) }
        count(:events_stored, request.events.size)
        true
      rescue AethyrError => e
        return false if Breaker.gone?(e) || e.is_a?(DeadlineExceeded)

        count(:events_lost, request.events.size)
        @logger.call("[event store] #{request.events.size} kept events were not stored: #{e.message}")
        true
      end

      def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

      def publish_later(events)
        return publish(events) if OneAppend.pending.nil?

        Thread.current[:aethyr_event_store_after] << -> { publish(events) }
      end

      def publish(events) = ::Sequent.configuration.event_publisher.publish_events(events)

      def last_sequence(id)
        read { |left| client.load(id, backwards: true, limit: 1, deadline: left) }.last_sequence
      end

      def stream(loaded, kind = ::Sequent::Core::EventStream)
        type = loaded.aggregate_type
        type = loaded.events.first.aggregate_type if type.empty? && loaded.events.any?
        kind.new(aggregate_type: EventCodec::AGGREGATES.long(type), aggregate_id: loaded.aggregate_id)
      end

      def pair(loaded)
        events = loaded.events.map { |record| event(record) }
        count(:events_loaded, events.size)
        events.unshift(snapshot_event(loaded.snapshot)) if loaded.snapshot
        [stream(loaded), events]
      end

      def event(record)
        EventCodec.event(record)
      rescue NameError, TypeError # No class has this name, or one that nobody can make an object of.
        raise DeserializeEventError, { "event_type" => record.event_type,
                                       "aggregate_id" => record.aggregate_id }
      end

      # Events and aggregates that this adapter made for unique keys.
      def own?(record) = own_type?(record.aggregate_type)
      def own_type?(type) = [UniqueKeys::KEY_TYPE, UniqueKeys::LIST_TYPE].include?(type)

      def count(name, by = 1) = @lock.synchronize { @metrics[name] += by }

      def reset_metrics
        @metrics = { events_stored: 0, store_failures: 0, events_loaded: 0, load_failures: 0,
                     snapshots_stored: 0, snapshots_loaded: 0, events_lost: 0 }
      end
    end

    # Pairs of stream and events, as Sequent wants them. It also answers like the Hash id => events of Aethyr.
    class Streams < Array
      def [](key, *rest) = key.is_a?(String) ? find { |stream, _| stream.aggregate_id == key }&.last : super
      def keys = map { |stream, _| stream.aggregate_id }
      def key?(id) = keys.include?(id)
      alias has_key? key?
      def is_a?(type) = type == Hash || super
    end

    # The stream of Sequent, which also answers like the Hash of Aethyr.
    class Stream < ::Sequent::Core::EventStream
      KEYS = %i[aggregate_id events snapshot_event].freeze
      # The store of each stream, which is frozen.
      STORES = ObjectSpace::WeakMap.new

      def key?(name) = KEYS.include?(name)

      def [](name)
        case name
        when :aggregate_id then aggregate_id
        when :events then store.all_events(aggregate_id)
        when :snapshot_event then store.load_latest_snapshot(aggregate_id)
        end
      end

      private

      def store = STORES[self] || ::Sequent.configuration.event_store
    end
  end
end
