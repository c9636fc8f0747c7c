# frozen_string_literal: true

# Owns the translation between events of Sequent and events of the store.
require "aethyr/event_store/names"
require "aethyr/event_store/markers"

module Aethyr
  module EventStore
    # An event of the world that the game has no class for.
    OtherEvent = Class.new(::Sequent::Core::Event)

    module EventCodec
      EVENTS = Names.new(Names::EVENTS)
      AGGREGATES = Names.new(Names::AGGREGATES)
      # These have fields of their own in the store.
      HEADER = %w[aggregate_id sequence_number created_at event_aggregate_id event_sequence_number].freeze
      # Types that Sequent does not convert: their values are written with markers.
      LOOSE = [Object, Hash].freeze
      WORLD = %w[GameObject Player Room].freeze

      module_function

      # An event of the store, with a new id. `command`: the one that led to it.
      def new_event(event, aggregate_id, aggregate_type, command = nil, correlation_id: "")
        at = event.instance_variable_get(:@created_at)
        V1::NewEvent.new(event_id: SecureRandom.uuid, aggregate_id: aggregate_id.to_s,
                         aggregate_type: AGGREGATES.short(aggregate_type.to_s),
                         event_type: EVENTS.short(event.class.name), json: JSON.generate(content(event)),
                         correlation_id: correlation_id, metadata: metadata(command),
                         occurred_at: at && Codec.timestamp(at))
      end

      def metadata(command)
        return {} if command.nil?

        actor = command.user_id if command.respond_to?(:user_id)
        actor ||= Actor.current
        { "command" => command.class.name.to_s, "actor" => Markers.clean(actor.to_s) }
          .reject { |_, value| value.empty? }
      end

      def content(event)
        types = types(event.class)
        world = event.class.name.to_s.start_with?(Names::EVENTS)
        fields(event).filter_map do |name, value|
          type = types[name.to_sym]
          # The world knows no text that is null: it is left out.
          next if world && type == String && value.nil?

          plain = world && (LOOSE.include?(type) || value.is_a?(String))
          [name, plain ? of_world(type, value) : stored(type, value)]
        end.to_h
      end

      # Attributes and exits of the world have texts as keys, and are not nested deeply. Its texts are UTF-8.
      def of_world(type, value)
        return Markers.clean(value) if type == String && value.is_a?(String)
        return Markers.dump_for_world(value) unless type == Hash && value.is_a?(Hash)

        value.to_h { |key, each| [Markers.clean(key.to_s), Markers.dump_for_world(each)] }
      end

      def stored(type, value)
        typed = !type.nil? && !LOOSE.include?(type) && value.respond_to?(:as_json) && !value.is_a?(String)
        typed ? Markers.clean_all(value.as_json) : Markers.dump(value)
      end

      def fields(event)
        event.instance_variables.map { |name| name.to_s.delete_prefix("@") }.reject do |name|
          HEADER.include?(name)
        end
             .to_h { |name| [name, event.instance_variable_get("@#{name}")] }
      end

      # The event of Sequent from an Event of the client.
      def event(record)
        at = record.occurred_at || record.recorded_at
        data = record.data.is_a?(Hash) ? record.data : {}
        build(type_of(record), data, aggregate_id: record.aggregate_id,
              sequence_number: record.sequence_number, at: at)
      end

      # The world of the service has events that Aethyr has no class for. They keep their place in the order,
      # and no handler hears of them.
      def type_of(record)
        EVENTS.find(record.event_type)
      rescue NameError
        raise unless WORLD.include?(record.aggregate_type)

        OtherEvent
      end

      # The classes of events check their attributes when they are made; what was stored is not checked again.
      def build(type, data, aggregate_id:, sequence_number:, at: nil)
        types = types(type)
        event = typed(type, types, data)
        data.each do |name, value|
          next if HEADER.include?(name) || strict?(types, name, value)

          event.instance_variable_set("@#{name}", Markers.load(value))
        end
        { "aggregate_id" => aggregate_id, "sequence_number" => sequence_number,
          "created_at" => at }.each do |name, value|
          event.instance_variable_set("@#{name}", value)
        end
        event
      end

      # Attributes with types of Sequent are read by Sequent itself, as dates or values of classes of the
      # game.
      def typed(type, types, data)
        event = type.allocate
        data.each do |name, value|
          next if HEADER.include?(name) || !strict?(types, name, value)

          event.instance_variable_set("@#{name}", types.fetch(name.to_sym).deserialize_from_json(value))
        end
        event
      end

      # A value with a marker, such as bytes in a String, is not Sequent's.
      def strict?(types, name, value)
        kind = types[name.to_sym]
        return false if kind.nil? || LOOSE.include?(kind) || !kind.respond_to?(:deserialize_from_json)

        !(value.is_a?(Hash) && value.size == 1 && value.keys.first.start_with?("__"))
      end

      def types(type) = type.respond_to?(:types) ? type.types : {}
    end
  end
end
