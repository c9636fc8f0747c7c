# frozen_string_literal: true

# Owns the unique keys of Sequent: an aggregate for each key, which its owner creates with expected sequence
# number 0, and a list of the keys of each owner. Both change in the append of the events that they belong to.
require "digest"

module Aethyr
  module EventStore
    class UniqueKeys
      KEY_TYPE = "UniqueKey"
      LIST_TYPE = "UniqueKeys"

      # True for the ids of these aggregates.
      def self.id?(id) = id.start_with?("unique-key:", "unique-keys-of:")

      # `load` loads several aggregates by id: Client#load_many.
      def initialize(&load)
        @load = load
      end

      # Adds to `records` and `expected` what the keys of these streams need.
      def add(streams, records, expected)
        streams = streams.select { |stream| keyed?(stream) }
        return if streams.empty?

        wanted = streams.to_h { |stream| [stream.aggregate_id, texts(stream.unique_keys)] }
        lists = loaded(wanted.keys.map { |id| list_id(id) })
        changes = wanted.flat_map { |id, keys| changes(id, held(lists[list_id(id)]), keys) }
        return if changes.empty?

        states = loaded(changes.map { |change| key_id(*change[:key]) }.uniq)
        write_keys(changes, states, records, expected)
        write_lists(changes, wanted, lists, records, expected)
      end

      # The owner of a key, or nil.
      def owner(scope, key)
        id = key_id(scope.to_s, text(key))
        owner_of(loaded([id])[id])
      end

      # The error of Sequent for a key that another aggregate has, if that is what the conflict is about.
      def taken(error, streams)
        return unless error.aggregate_id.to_s.start_with?("unique-key:")

        taker = streams.find { |stream| keyed?(stream) && held_by?(stream, error.aggregate_id) }
        duplicate(taker&.aggregate_type, taker ? taker.aggregate_id : error.aggregate_id)
      end

      # Symbols and texts are the same key, in any order, as in the JSON of Sequent.
      def text(key) = JSON.generate(sorted(Markers.dump(plain(key))))

      private

      def keyed?(stream)
        return false unless stream.respond_to?(:unique_keys)
        return true unless stream.unique_keys.nil? || stream.unique_keys.empty?

        type = Names.class_of(stream.aggregate_type.to_s)
        type.respond_to?(:unique_key_definitions) && !type.unique_key_definitions.nil?
      end

      def held_by?(stream, key_id)
        texts(stream.unique_keys).any? { |scope, key| key_id(scope, key) == key_id }
      end

      def texts(keys) = (keys || {}).to_h { |scope, key| [scope.to_s, text(key)] }

      def changes(id, held, wanted)
        released = held.reject { |scope, key| wanted[scope] == key }
        taken = wanted.reject { |scope, key| held[scope] == key }
        released.map { |key| { owner: id, key: key, take: false } } +
          taken.map { |key| { owner: id, key: key, take: true } }
      end

      def write_keys(changes, states, records, expected)
        owners = states.transform_values { |state| owner_of(state) }
        changes.sort_by { |change| change[:take] ? 1 : 0 }.each do |change|
          id = key_id(*change[:key])
          holder = owners[id]
          raise duplicate(nil, change[:owner]) if change[:take] && holder && holder != change[:owner]
          next if !change[:take] && holder != change[:owner]

          owners[id] = change[:take] ? change[:owner] : nil
          expected[id] ||= states[id].last_sequence
          records << record(id, KEY_TYPE, change[:take] ? "UniqueKeyTaken" : "UniqueKeyReleased",
                            "owner" => change[:owner], "scope" => change[:key][0], "key" => change[:key][1])
        end
      end

      def write_lists(changes, wanted, lists, records, expected)
        changes.map { |change| change[:owner] }.uniq.each do |owner|
          id = list_id(owner)
          expected[id] = lists[id].last_sequence
          records << record(id, LIST_TYPE, "UniqueKeysChanged", "keys" => wanted[owner])
        end
      end

      def record(id, type, event_type, data)
        V1::NewEvent.new(event_id: SecureRandom.uuid, aggregate_id: id, aggregate_type: type,
                         event_type: event_type,
                         json: JSON.generate(data))
      end

      # As they are stored, and after what the running transaction has for them.
      def loaded(ids)
        pending = OneAppend.pending&.records.to_a.group_by(&:aggregate_id)
        @load.call(ids).to_h do |each|
          pending.fetch(each.aggregate_id, []).each do |record|
            each.events << Event.new(event_type: record.event_type, data: JSON.parse(record.json))
            each.last_sequence += 1
          end
          [each.aggregate_id, each]
        end
      end

      def held(list) = list.events.last&.data.to_h["keys"].to_h

      def owner_of(state)
        last = state.events.last
        last.data["owner"] if last && last.event_type == "UniqueKeyTaken"
      end

      def duplicate(type, id)
        message = "duplicate unique key value for aggregate #{type || "Aggregate"} #{id}"
        if defined?(::Sequent::Core::AggregateKeyNotUniqueError)
          ::Sequent::Core::AggregateKeyNotUniqueError.new(message)
        else
          AethyrError.new(message)
        end
      end

      def key_id(scope, key) = "unique-key:#{scope}:#{Digest::SHA256.hexdigest(key)[0, 40]}"
      def list_id(id) = "unique-keys-of:#{id}"

      def plain(value)
        case value
        when Hash then value.to_h { |key, each| [key.to_s, plain(each)] }
        when Array then value.map { |each| plain(each) }
        when Symbol then value.to_s
        else value
        end
      end

      def sorted(value)
        case value
        when Hash then value.sort.to_h { |key, each| [key, sorted(each)] }
        when Array then value.map { |each| sorted(each) }
        else value
        end
      end
    end
  end
end
