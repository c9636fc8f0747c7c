# frozen_string_literal: true

# Owns the comparison of the world in the service with what the storage has.
module Aethyr
  module EventStore
    module Migration
      class Comparison
        def initialize(client)
          @client = client
        end

        # Texts: id, field, what was expected and what was found.
        def differences(things, plan)
          things.each.with_index(1).flat_map do |thing, number|
            yield "compared #{number} of #{things.size}" if block_given? && (number % 1000).zero?
            compare(thing, plan)
          end
        end

        private

        def compare(thing, plan)
          found = fetch(thing)
          wanted = wanted(thing, plan)
          wanted.reject { |key, value| found[key] == value }.map do |key, value|
            "#{thing.id}: #{key}: expected #{value.inspect[0, 200]}, found #{found[key].inspect[0, 200]}"
          end
        rescue AethyrError => e
          ["#{thing.id}: #{e.message}"]
        end

        def fetch(thing)
          case thing.kind
          when :room
            room = @client.get_room(thing.id)
            state = object(room.object)
            # The service shows the description under this name as well.
            state["attributes"].delete("long_desc")
            state.merge("description" => room.description, "exits" => room.exits.to_h)
          when :player
            player = @client.get_player(thing.id)
            hash = player.redacted ? nil : player.password_hash
            object(player.object).merge("admin" => player.admin, "password" => hash)
          else object(@client.get_game_object(thing.id))
          end
        end

        def object(state)
          attributes = state.attributes.map { |key, value| [key, Codec.plain(value)] }.to_h
          { "name" => state.name, "container" => state.container_id, "generic" => state.generic,
            "attributes" => attributes.reject { |key, _| key == "name" },
            "equipment" => state.equipment.to_h }
        end

        def wanted(thing, plan)
          common = { "name" => thing.name, "container" => plan.place(thing)&.first.to_s,
                     "equipment" => worn(thing, plan),
                     "attributes" => JSON.parse(JSON.generate(thing.attributes)) }
          case thing.kind
          when :room then common.merge("description" => thing.description, "exits" => plan.exits_of(thing))
          when :player then common.merge("admin" => thing.admin, "password" => thing.password.to_s)
          else common.merge("generic" => thing.generic)
          end
        end

        def worn(thing, plan)
          thing.equipment.reject { |slot, item| slot.start_with?("unplaced/") || !plan.known?(item) }
        end
      end
    end
  end
end
