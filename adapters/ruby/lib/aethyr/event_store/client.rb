# frozen_string_literal: true

# Owns the calls of the event store. The calls of the world are in world_calls.rb, subscriptions in
# subscription.rb.
require "google/protobuf/well_known_types"

module Aethyr
  module EventStore
    # A connection to the service. Threads may share a client.
    class Client
      include WorldCalls

      CONFLICTS = 10

      attr_reader :options, :transport

      # `Client.new("aethyr://127.0.0.1:50051", deadline: 5)`. Nothing is sent before the first call.
      # With a block, the client is closed at its end.
      def self.open(...)
        client = new(...)
        return client unless block_given?

        begin
          yield client
        ensure
          client.close
        end
      end

      def initialize(text = nil, **options)
        @options = text.is_a?(Options) ? text : Options.new(text, **options)
        @transport = Transport.new(@options)
        @subscriptions = ObjectSpace::WeakMap.new
      end

      # Ends subscriptions. Calls that wait, that are in flight and that come later fail with an AethyrError
      # whose reason is CLOSED.
      def close
        transport.close
        @subscriptions.keys.each(&:close)
      end

      def inspect = "#<#{self.class} #{options}>"
      alias to_s inspect

      # Appends events, all or none. Each is a Hash with aggregate_id, type, event_type, data, and if you like
      # event_id, correlation_id, causation_id, metadata, occurred_at. `expect`: :new, :any or the sequence
      # number that was seen; for several aggregates a Hash of them by id. An event without an id gets one, in
      # the Hash itself, so that the same events can be sent again.
      def append(events, expect: :any, deadline: nil)
        events = [events].flatten.map { |event| Codec.identify(event, :event_id) }
        request = V1::AppendEventsRequest.new(events: events.map { |event| Codec.new_event(event) },
                                              expected_sequences: Codec.expected(events, expect))
        append_request(request, deadline: deadline)
      end

      # Appends more events than one call can have, in calls of at most `most` events: their answers. All
      # events get ids before the first call, and this correlation id if they have none. If a call fails,
      # those before it are stored: the same events again go on there. `deadline` is that of each call.
      def append_many(events, correlation_id:, most: 500, deadline: nil)
        Codec.check_most(most)
        messages = [events].flatten.map do |event|
          event = Codec.set(Codec.identify(event, :event_id), :correlation_id, correlation_id)
          Codec.new_event(event)
        end
        messages.each_slice(most).map do |slice|
          append_request(V1::AppendEventsRequest.new(events: slice), deadline: deadline)
        end
      end

      # Sends a ready request, whose events have ids.
      def append_request(request, deadline: nil)
        transport.unary(:store, :append_events, request, deadline: deadline, write: true)
      end

      # Loads an aggregate. One that does not exist has no events and last_sequence 0.
      def load(id, from_sequence: 0, to_sequence: 0, limit: 0, backwards: false, recorded_until: nil,
               from_snapshot: nil, schema_version: nil, verified: false, deadline: nil)
        from_snapshot = !schema_version.nil? if from_snapshot.nil?
        reader = Reader.new(id, limit: limit, request: {
                              aggregate_id: id, from_sequence: from_sequence, to_sequence: to_sequence,
                              recorded_until: Codec.timestamp(recorded_until), from_snapshot: from_snapshot,
                              snapshot_schema_version: schema_version || 0, backwards: backwards,
                              verified: verified
                            })
        resume = reader.method(:next_request)
        transport.stream(:store, :load_events, resume.call, resume: resume, deadline: deadline) do |part|
          reader.take(part)
        end
        reader.loaded
      end

      # Loads several aggregates, in the order of the ids. Ids may be as many as you like.
      def load_many(ids, recorded_until: nil, from_snapshot: nil, schema_version: nil, deadline: nil)
        from_snapshot = !schema_version.nil? if from_snapshot.nil?
        settings = { recorded_until: Codec.timestamp(recorded_until), from_snapshot: from_snapshot,
                     snapshot_schema_version: schema_version || 0 }
        over = transport.now + (deadline || options.deadline)
        ids.map(&:to_s).each_slice(1000).flat_map do |slice|
          load_slice(slice, settings, over - transport.now)
        end
      end

      # Folds the events of an aggregate: [state, sequence]. The block gets state and event, and returns the
      # state. With `schema_version` it begins with the data of a snapshot of that version, if there is one.
      def fold(id, initial, schema_version: nil, deadline: nil, &apply)
        loaded = load(id, schema_version: schema_version, deadline: deadline)
        state = loaded.snapshot ? loaded.snapshot.data : initial
        [loaded.events.inject(state, &apply), loaded.last_sequence]
      end

      # Loads, decides, appends; after a conflict again, up to 10 times. The block gets state and sequence,
      # and returns the new events; their aggregate_id may be left out. No events: nothing is appended, and
      # the result is nil. `snapshot`: makes the data of a snapshot of the state when the service says that
      # one is due. What the block returns is not changed: each update makes ids of its own. After a
      # DeadlineExceeded with `outcome_unknown`, call it again only if the block sees in the state what is
      # done already, or sets `event_id` itself.
      def update(id, initial: nil, apply: nil, type: nil, schema_version: nil, snapshot: nil, deadline: nil)
        over = transport.now + (deadline || options.deadline)
        # A snapshot is of a state that `apply` made.
        version = apply && (schema_version || (snapshot && 0))
        apply ||= ->(events, event) { [*events, event] }
        load_state = lambda do
          fold(id, initial, schema_version: version, deadline: over - transport.now, &apply)
        end
        (1..CONFLICTS).each do |round|
          state, sequence = load_state.call
          events = decided([yield(state, sequence)].flatten.compact, id, type)
          return nil if events.empty?

          answer = append(events, expect: { id => sequence }, deadline: over - transport.now)
          snapshot_after(id, answer, load_state, version, snapshot, over)
          return answer
        rescue WrongExpectedSequence => e
          raise if round == CONFLICTS || e.aggregate_id != id.to_s

          transport.pause(rand * 0.01 * round)
        end
      end

      def save_snapshot(id, sequence, data, schema_version: 0, metadata: nil, deadline: nil)
        request = V1::SaveSnapshotRequest.new(aggregate_id: id, sequence_number: sequence,
                                              schema_version: schema_version, metadata: Codec.texts(metadata),
                                              **Codec.data(data))
        transport.unary(:store, :save_snapshot, request, deadline: deadline, write: true)
      end

      # The newest snapshot; nil if there is none.
      def load_snapshot(id, deadline: nil)
        load_snapshot!(id, deadline: deadline)
      rescue NotFound
        nil
      end

      # The newest snapshot; NotFound if there is none.
      def load_snapshot!(id, deadline: nil)
        answer = transport.unary(:store, :load_snapshot, V1::LoadSnapshotRequest.new(aggregate_id: id),
                                 deadline: deadline)
        Codec.state(answer.snapshot, answer.aggregate_type)
      end

      # Aggregates in the order of their ids, over all pages. Without a block, an Enumerator.
      def list_aggregates(type: nil, prefix: nil, snapshot_due: false, page_size: 0, deadline: nil, &block)
        request = { aggregate_type: type.to_s, aggregate_id_prefix: prefix.to_s, snapshot_due: snapshot_due,
                    page_size: page_size }
        pages(:store, :list_aggregates, V1::ListAggregatesRequest, request, :aggregates, deadline, &block)
      end

      # Events of the total order, up to the one that is the newest at the beginning. The deadline counts from
      # the last message, and a slow block does not count. Without a block, an Enumerator.
      def read_all(after: nil, from_position: nil, filter: nil, limit: 0, deadline: nil, &block)
        unless block
          return enum_for(:read_all, after: after, from_position: from_position, filter: filter, limit: limit,
                                     deadline: deadline)
        end

        from = after ? (after.respond_to?(:position) ? after.position : after) + 1 : (from_position || 0)
        left = limit
        newest = 0
        request = lambda do
          next if (limit.positive? && left.zero?) || (newest.positive? && from > newest)

          V1::ReadAllRequest.new(from_position: from, limit: left, filter: Codec.filter(filter))
        end
        transport.stream(:store, :read_all, request.call, resume: request, deadline: deadline,
                         progress: true) do |part|
          newest = part.last_position if newest.zero?
          part.events.each do |record|
            return nil if record.position > newest

            from = record.position + 1
            left -= 1 if limit.positive?
            block.call(Codec.event(record))
          end
        end
      end

      # Events from the checkpoint of `name` in `store` on, then new ones as they come: see Subscription.
      def subscribe(name, store = MemoryCheckpoints.new, filter: nil)
        raise Errors.closed if transport.closed?

        subscription = Subscription.new(transport, name, store, Codec.filter(filter))
        @subscriptions[subscription] = true
        return subscription unless block_given?

        subscription.each { |event| yield event }
      end

      def stats(deadline: nil)
        transport.unary(:store, :stats, V1::StatsRequest.new, deadline: deadline)
      end

      # The proof of an event, by `event_id` or by `aggregate_id` and `sequence_number`. `tlog_proof` of the
      # answer is a file for `aethyr-event-store verify-proof`.
      def get_proof(deadline: nil, **event)
        transport.unary(:store, :get_proof, V1::GetProofRequest.new(**event), deadline: deadline)
      end

      private

      def load_slice(ids, settings, deadline)
        readers = ids.to_h { |id| [id, Reader.new(id)] }
        open = ids.dup
        request = lambda do
          next if open.empty?

          readers[open.first].restart
          V1::LoadManyEventsRequest.new(aggregate_ids: open, **settings)
        end
        transport.stream(:store, :load_many_events, request.call, resume: request,
                         deadline: deadline) do |part|
          readers.fetch(part.aggregate_id).take(part)
          open.delete(part.aggregate_id) if part.last
        end
        readers.values.map(&:loaded)
      end

      # New events with the id and the type of the aggregate, unless they have others.
      def decided(events, id, type)
        events.map do |event|
          InvalidArgument.refuse("events", "a Hash is needed, not #{event.class}") unless event.is_a?(Hash)
          event = { aggregate_id: id }.merge(event)
          event[:aggregate_id].to_s == id.to_s ? { type: type }.compact.merge(event) : event
        end
      end

      def snapshot_after(id, answer, load_state, version, snapshot, over)
        due = answer.aggregates.any? { |part| part.aggregate_id == id.to_s && part.snapshot_due }
        return unless snapshot && due

        state, sequence = load_state.call
        save_snapshot(id, sequence, snapshot.call(state), schema_version: version || 0,
                                                          deadline: over - transport.now)
      rescue StandardError => e
        # The events are stored, and a snapshot can wait for the next append.
        warn("aethyr-event-store: no snapshot of #{id}: #{e.class}")
      end

      def pages(service, name, type, request, field, deadline)
        return enum_for(:pages, service, name, type, request, field, deadline) unless block_given?

        token = ""
        loop do
          page = transport.unary(service, name, type.new(**request, page_token: token), deadline: deadline)
          page.public_send(field).each { |each| yield each }
          token = page.next_page_token
          return nil if token.empty?
        end
      end
    end

    # Collects the messages of one aggregate, and makes the request that goes on after a break.
    class Reader
      def initialize(id, limit: 0, request: {})
        @id = id
        @limit = limit
        @request = request
        restart
      end

      def restart
        @snapshot = nil
        @events = []
        @last = nil
        @type = ""
      end

      def take(part)
        @snapshot ||= Codec.state(part.snapshot, part.aggregate_type)
        @last ||= part.last_sequence
        @type = part.aggregate_type unless part.aggregate_type.empty?
        part.events.each { |record| @events << Codec.event(record) }
      end

      # nil if nothing is left to load.
      def next_request
        left = @limit.zero? ? 0 : @limit - @events.size
        return if @limit.positive? && left.zero?
        return if @last && done?

        V1::LoadEventsRequest.new(**@request, **rest, limit: left)
      end

      def loaded
        Loaded.new(aggregate_id: @id, aggregate_type: @type, last_sequence: @last || 0, snapshot: @snapshot,
                   events: @events)
      end

      private

      def done?
        if @request[:backwards]
          return !@events.empty? && @events.last.sequence_number <= [@request[:from_sequence].to_i, 1].max
        end

        upper = @request[:to_sequence].to_i.zero? ? @last : [@request[:to_sequence], @last].min
        reached >= upper
      end

      def reached = @events.last&.sequence_number || @snapshot&.sequence_number || 0

      def rest
        return {} if @last.nil?
        return @events.empty? ? {} : { to_sequence: @events.last.sequence_number - 1 } if @request[:backwards]
        return {} if reached.zero?

        { from_sequence: reached + 1, from_snapshot: false }
      end
    end
  end
end
