# frozen_string_literal: true

# Owns the reading of the world as it is in the service.
module Aethyr
  module EventStore
    module Migration
      class World
        KINDS = { "Room" => :room, "Player" => :player, "GameObject" => :thing }.freeze

        attr_reader :losses

        # Reads the objects of the game, and those that an earlier run has stored.
        def initialize(client, things)
          @client = client
          @losses = []
          @states = {}
          @items = {}
          @sequences = KINDS.keys.flat_map { |type| client.list_aggregates(type: type, page_size: 1000).to_a }
                            .to_h { |each| [each.aggregate_id, each] }
          @types = things.to_h { |thing| [thing.id, thing.type] }
          @sequences.each_value.with_index(1) do |each, number|
            read(each.aggregate_id, KINDS.fetch(each.aggregate_type))
            yield "read #{number} objects of the service" if block_given? && (number % 1000).zero?
          end
          @items.each { |id, place| @states[id].place = place if @states[id] }
        end

        # The State of an object; :deleted, :damaged, or nil if there is none.
        def [](id) = @states[id]

        # The number of the last event of an object; 0 if there is none.
        def sequence(id) = @sequences[id]&.last_sequence.to_i

        # Objects that an earlier run has stored, and the storage no longer has.
        def left_over = @states.keys.reject { |id| @types.key?(id) }

        private

        def read(id, kind)
          ours = @types.key?(id)
          object, state = fetch(id, kind)
          # `class` is an attribute that only the migration sets.
          return unless ours || (!object.deleted && object.attributes.has_key?("class"))
          return @states[id] = :deleted if object.deleted

          @states[id] = state
          held(id, object)
        rescue AethyrError => e
          raise unless e.is_a?(Damaged)
          return unless ours

          @states[id] = :damaged
          @losses << Loss.new(id, @types[id], e.message)
        end

        def fetch(id, kind)
          case kind
          when :room
            room = @client.get_room(id)
            [room.object, state(kind, room.object).tap do |state|
              # The service shows the description under this name as well.
              state.attributes.delete("long_desc")
              state.description = room.description
              state.exits = room.exits.to_h
            end]
          when :player
            player = @client.get_player(id)
            [player.object, state(kind, player.object).tap do |state|
              state.admin = player.admin
              # Without the right see_secrets, nobody knows it.
              state.password = player.redacted ? :unknown : player.password_hash
            end]
          else
            object = @client.get_game_object(id)
            [object, state(kind, object)]
          end
        end

        def state(kind, object)
          attributes = object.attributes.map { |key, value| [key, Codec.plain(value)] }.to_h
          place = Place.new(object.container_id, :lies) unless object.container_id.empty?
          State.new(kind: kind, name: object.name, place: place,
                    attributes: attributes.reject { |key, _| key == "name" })
        end

        def held(holder, object)
          object.inventory.each do |item|
            @items[item.item_id] = Place.new(holder, :carried, Codec.plain(item.position))
          end
          object.equipment.each { |slot, item| @items[item] = Place.new(holder, :worn, slot) }
        end
      end
    end
  end
end
