# frozen_string_literal: true

# Owns the commands that make the world of the service what the storage says, in phases: objects with their
# attributes, what is taken from its place, places, equipment, exits. A second run finds no difference, and
# has no commands.
require "digest"

module Aethyr
  module EventStore
    module Migration
      # `id` is the object that the report names.
      Step = Struct.new(:id, :type, :name, :fields, :command_id, keyword_init: true)

      class Plan
        NAMESPACE = "0f1d8a5c-7d6e-5b0a-9c53-2b7a1a4be35d"

        attr_reader :losses, :phases

        def initialize(layout, world)
          @layout = layout
          @world = world
          @losses = []
          things = layout.ordered.select { |thing| changeable?(thing) }
          @phases = { "objects" => things.map { |thing| object(thing) }, "taken" => left_over + taken(things),
                      "places" => things.map { |thing| place(thing) },
                      "equipment" => things.map { |thing| equip(thing) },
                      "exits" => things.flat_map { |thing| exits(thing) } }
          @phases.each_value { |groups| groups.reject!(&:empty?) }
        end

        # Lists of lists of steps: those of one list belong together, and the phases follow each other.
        def commands = phases.values.flatten

        def self.uuid(text)
          bytes = Digest::SHA1.digest([NAMESPACE.delete("-")].pack("H*") + text.b)[0, 16].bytes
          bytes[6] = (bytes[6] & 0x0f) | 0x50
          bytes[8] = (bytes[8] & 0x3f) | 0x80
          bytes.pack("C*").unpack("H8H4H4H4H12").join("-")
        end

        private

        def changeable?(thing)
          lose(thing, "was deleted in the service; its id is not free again") if @world[thing.id] == :deleted
          !@world[thing.id].is_a?(Symbol)
        end

        def object(thing)
          found, wanted = @world[thing.id], @layout[thing.id]
          found ? attributes(thing, found, wanted) + own(thing, found, wanted) : create(thing, wanted)
        end

        def create(thing, wanted)
          common = { id: thing.id, name: wanted.name }
          attributes = step(thing, :update_game_object_attributes, id: thing.id,
                                                                   attributes: wanted.attributes)
          case wanted.kind
          when :room then [step(thing, :create_room, **common, description: wanted.description), attributes]
          when :player
            [step(thing, :create_player, **common, password_hash: wanted.password), attributes,
             (step(thing, :update_player_admin_status, id: thing.id, admin: true) if wanted.admin)].compact
          else
            [step(thing, :create_game_object, **common, type: thing.type, generic: thing.generic,
                                                        attributes: wanted.attributes)]
          end
        end

        # What is removed comes first: an object has at most 1,000 attributes.
        def attributes(thing, found, wanted)
          steps = (found.attributes.keys - wanted.attributes.keys).map do |key|
            step(thing, :remove_game_object_attribute, id: thing.id, key: key)
          end
          changed = wanted.attributes.reject do |key, value|
            found.attributes.key?(key) && found.attributes[key] == value
          end
          changed["name"] = wanted.name if found.name != wanted.name
          return steps if changed.empty?

          steps << step(thing, :update_game_object_attributes, id: thing.id, attributes: changed)
        end

        # What only rooms and players have.
        def own(thing, found, wanted)
          steps = []
          if found.description != wanted.description
            steps << step(thing, :update_room_description, id: thing.id, description: wanted.description)
          end
          if found.password != wanted.password && !wanted.password.empty?
            steps << step(thing, :update_player_password, id: thing.id, password_hash: wanted.password)
          end
          if found.admin != wanted.admin
            steps << step(thing, :update_player_admin_status, id: thing.id, admin: wanted.admin)
          end
          steps
        end

        # Objects that only the service has. They no longer take a slot or a position of somebody.
        def left_over
          @world.left_over.filter_map do |id|
            thing = Source::Thing.new(id: id, type: @world[id].attributes["class"].to_s)
            lose(thing, "is in the service, and no longer in the storage")
            place = @world[id].place
            next if place.nil? || place.how == :lies

            [step(thing, :update_game_object_container, id: id, container_id: "")]
          end
        end

        # Slots and positions are free before others take them.
        def taken(things)
          things.map do |thing|
            found, wanted = @world[thing.id]&.place, @layout[thing.id].place
            next [] if found == wanted || found.nil?

            steps = []
            if found.how == :worn
              steps << step(thing, :unequip_item, id: found.holder, item_id: thing.id, slot: found.detail)
            end
            if from_inventory?(found, wanted)
              steps << step(thing, :remove_item_from_inventory, id: found.holder, item_id: thing.id)
            end
            steps
          end
        end

        def from_inventory?(found, wanted)
          return found.how != :lies if wanted&.holder == found.holder && wanted.how == :lies

          put_on = wanted&.how == :worn && wanted.holder == found.holder
          found.how == :carried && !found.detail.nil? && !put_on
        end

        def place(thing)
          found, wanted = @world[thing.id]&.place, @layout[thing.id].place
          return [] if found == wanted || (wanted&.how == :worn && wanted.holder == found&.holder)

          lies = { id: thing.id, container_id: wanted&.holder.to_s }
          return [step(thing, :update_game_object_container, **lies)] if wanted.nil? || wanted.how == :lies

          position = { position: wanted.detail } unless wanted.how == :worn || wanted.detail.nil?
          [step(thing, :add_item_to_inventory, id: wanted.holder, item_id: thing.id, **position.to_h)]
        end

        def equip(thing)
          wanted = @layout[thing.id].place
          return [] if wanted&.how != :worn || wanted == @world[thing.id]&.place

          [step(thing, :equip_item, id: wanted.holder, item_id: thing.id, slot: wanted.detail)]
        end

        def exits(thing)
          wanted, found = @layout[thing.id].exits.to_h, @world[thing.id]&.exits.to_h
          (found.keys - wanted.keys).map do |direction|
            [step(thing, :remove_room_exit, id: thing.id, direction: direction)]
          end + wanted.reject { |direction, target| found[direction] == target }.map do |direction, target|
            [step(thing, :add_room_exit, id: thing.id, direction: direction, target_room_id: target)]
          end
        end

        # The id of a command follows from the command, and from the last events of the objects that it
        # names: after a change there and back, the same command has another id.
        def step(thing, name, **fields)
          numbers = fields.values_at(:id, :item_id).compact.map { |id| @world.sequence(id) }
          text = [thing.id, name, *numbers, JSON.generate(fields.sort, max_nesting: 0)].join("\0")
          Step.new(id: thing.id, type: thing.type, name: name, fields: fields, command_id: Plan.uuid(text))
        end

        def lose(thing, what)
          @losses << Loss.new(thing.id, thing.type, what)
          nil
        end
      end
    end
  end
end
