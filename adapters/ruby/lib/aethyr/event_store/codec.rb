# frozen_string_literal: true

# Owns the translation between Ruby values and the messages of the API: events, snapshots, times,
# expectations.
module Aethyr
  module EventStore
    # A stored event. `data` is the decoded JSON, a binary String, or nil if the event has none.
    Event = Struct.new(:event_id, :aggregate_id, :aggregate_type, :event_type, :data, :json, :correlation_id,
                       :causation_id, :metadata, :occurred_at, :sequence_number, :position, :recorded_at,
                       :chain_hash,
                       :recorded_by, :redacted, keyword_init: true) do
      def type = aggregate_type
      def checkpoint = V1::Checkpoint.new(position: position, chain_hash: chain_hash)
    end

    # A snapshot: `sequence_number` is that of the last event that `data` includes.
    State = Struct.new(:aggregate_id, :aggregate_type, :sequence_number, :data, :schema_version, :metadata,
                       :recorded_at, :redacted, keyword_init: true)

    # An aggregate as it was loaded. One that does not exist has `last_sequence` 0.
    Loaded = Struct.new(:aggregate_id, :aggregate_type, :last_sequence, :snapshot, :events,
                        keyword_init: true) do
      def exist? = last_sequence.positive?
    end

    module Codec
      EVENT_KEYS = %i[event_id aggregate_id aggregate_type type event_type data correlation_id causation_id
                      metadata occurred_at].freeze

      module_function

      # Sets the id of an event or a command that has none, in the Hash of the caller: whoever sends it again
      # sends the same id.
      def identify(hash, key)
        InvalidArgument.refuse(key, "a Hash is needed, not #{hash.class}") unless hash.is_a?(Hash)
        set(hash, key, SecureRandom.uuid)
      end

      # Sets a field that is not there, in the same way.
      def set(hash, key, value)
        return hash if hash[key] || hash[key.to_s] || value.nil?

        hash.frozen? ? hash.merge(key => value) : hash.update(key => value)
      end

      def check_most(most)
        return if most.is_a?(Integer) && most.positive?

        InvalidArgument.refuse("most", "most is a number of 1 or more")
      end

      def new_event(event)
        unknown = event.keys - EVENT_KEYS
        if unknown.any?
          InvalidArgument.refuse("events", "unknown fields of an event: #{unknown.join(", ")}; known: " \
                                           "#{EVENT_KEYS.join(", ")}")
        end

        V1::NewEvent.new(event_id: event[:event_id].to_s, aggregate_id: event[:aggregate_id].to_s,
                         aggregate_type: (event[:aggregate_type] || event[:type]).to_s,
                         event_type: event[:event_type].to_s, correlation_id: event[:correlation_id].to_s,
                         causation_id: event[:causation_id].to_s, metadata: texts(event[:metadata]),
                         occurred_at: timestamp(event[:occurred_at]),
                         **(event.key?(:data) ? data(event[:data]) : {}))
      end

      # A String of encoding BINARY is bytes, everything else JSON.
      def data(value)
        return { binary: value } if value.is_a?(String) && value.encoding == Encoding::BINARY

        { json: JSON.generate(value) }
      end

      def texts(hash)
        (hash || {}).to_h { |key, value| [key.to_s, value.to_s] }
      end

      def expected(events, expect)
        return {} if [:any, "any"].include?(expect)

        if expect.is_a?(Hash)
          wanted = expect
        else
          ids = events.map { |event| event[:aggregate_id].to_s }.uniq
          if ids.size > 1
            InvalidArgument.refuse("expect", "several aggregates need a Hash id => :new, :any or a number")
          end

          wanted = { ids.first => expect }
        end
        wanted.each_with_object({}) do |(id, value), found|
          case value
          when :any, "any" then next
          when :new, "new" then found[id.to_s] = 0
          when Integer then found[id.to_s] = value
          else InvalidArgument.refuse("expect", "expect #{value.inspect}: give :new, :any or a number")
          end
        end
      end

      def event(record)
        Event.new(event_id: record.event_id, aggregate_id: record.aggregate_id,
                  aggregate_type: record.aggregate_type,
                  event_type: record.event_type, data: value(record), json: record.data == :json ?
                  record.json : nil,
                  correlation_id: record.correlation_id, causation_id: record.causation_id,
                  metadata: record.metadata.to_h, occurred_at: time(record.occurred_at),
                  sequence_number: record.sequence_number, position: record.position,
                  recorded_at: time(record.recorded_at), chain_hash: record.chain_hash,
                  recorded_by: record.recorded_by, redacted: record.redacted)
      end

      def state(record, type = nil)
        return if record.nil?

        State.new(aggregate_id: record.aggregate_id, aggregate_type: type,
                  sequence_number: record.sequence_number,
                  data: value(record), schema_version: record.schema_version, metadata: record.metadata.to_h,
                  recorded_at: time(record.recorded_at), redacted: record.redacted)
      end

      def value(record)
        case record.data
        when :json then JSON.parse(record.json)
        when :binary then record.binary
        end
      end

      def timestamp(time)
        case time
        when nil, Google::Protobuf::Timestamp then time
        when Time then Google::Protobuf::Timestamp.new(seconds: time.to_i, nanos: time.nsec)
        else timestamp(time.to_time)
        end
      end

      def time(stamp)
        stamp && Time.at(stamp.seconds, stamp.nanos, :nsec).utc
      end

      def filter(filter)
        return filter if filter.nil? || filter.is_a?(V1::Filter)

        V1::Filter.new(filter.to_h do |key, value|
          [key.to_sym, %w[recorded_from recorded_until].include?(key.to_s) ? timestamp(value) : value]
        end)
      end

      # Any JSON value as google.protobuf.Value.
      def json_value(value)
        return value if value.is_a?(Google::Protobuf::Value)

        Google::Protobuf::Value.new.tap { |found| found.from_ruby(JSON.parse(JSON.generate(value))) }
      rescue JSON::GeneratorError => e
        InvalidArgument.refuse("value", "not a JSON value: #{e.message}")
      end

      # The Ruby value of a google.protobuf.Value; whole numbers are Integers.
      def plain(value)
        return if value.nil?

        case value.kind
        when :bool_value then value.bool_value
        when :string_value then value.string_value
        when :number_value then value.number_value % 1 == 0 ? value.number_value.to_i : value.number_value
        when :list_value then value.list_value.values.map { |each| plain(each) }
        when :struct_value then value.struct_value.fields.map { |key, each| [key, plain(each)] }.to_h
        end
      end
    end
  end
end
