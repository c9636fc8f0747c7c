# frozen_string_literal: true

# Owns the commands of a migration, in phases: objects with their attributes, places, equipment, exits. Their
# ids follow from the object, the step and what the step says (UUID, version 5), so a second run stores
# nothing.
require "digest"

module Aethyr
  module EventStore
    module Migration
      # `id` is the object that the report names.
      Step = Struct.new(:id, :type, :name, :fields, keyword_init: true)

      class Plan
        NAMESPACE = "0f1d8a5c-7d6e-5b0a-9c53-2b7a1a4be35d"

        attr_reader :losses

        def initialize(things)
          @things = things
          @ids = things.to_h { |thing| [thing.id, thing] }
          @losses = []
          @holders = {}
        end

        # Lists of lists of steps: those of one list belong together, and the phases follow each other.
        def phases
          @phases ||= { "objects" => @things.map { |thing| create(thing) }, "places" => places,
                        "equipment" => @things.flat_map { |thing| worn(thing) }, "exits" => exits }
        end

        def commands = phases.values.flatten
        def known?(id) = @ids.key?(id)

        # Where an object lies after the migration: [holder, position], or nil.
        def place(thing)
          phases
          @holders[thing.id]
        end


        def exits_of(room)
          phases
          @exits.fetch(room.id, {})
        end

        def self.uuid(text)
          bytes = Digest::SHA1.digest([NAMESPACE.delete("-")].pack("H*") + text.b)[0, 16].bytes
          bytes[6] = (bytes[6] & 0x0f) | 0x50
          bytes[8] = (bytes[8] & 0x3f) | 0x80
          bytes.pack("C*").unpack("H8H4H4H4H12").join("-")
        end

        # The command of a step, with its id.
        def self.command(step)
          { step.name => step.fields,
            :command_id => uuid("#{step.id}\0#{step.name}\0#{JSON.generate(sorted(step.fields))}") }
        end

        def self.sorted(value)
          case value
          when Hash then value.map { |key, each| [key.to_s, sorted(each)] }.sort_by(&:first)
          when Array then value.map { |each| sorted(each) }
          else value
          end
        end

        private

        def create(thing)
          case thing.kind
          when :room
            [step(thing, :create_room, id: thing.id, name: thing.name, description: thing.description),
             step(thing, :update_game_object_attributes, id: thing.id, attributes: thing.attributes)]
          when :player then player(thing)
          else
            [step(thing, :create_game_object, id: thing.id, type: thing.type, name: thing.name,
                  generic: thing.generic,
                                              attributes: thing.attributes)]
          end
        end

        def player(thing)
          lose(thing, "has no password; nobody can log in as this player") if thing.password.nil?
          steps = [step(thing, :create_player, id: thing.id, name: thing.name,
                        password_hash: thing.password.to_s),
                   step(thing, :update_game_object_attributes, id: thing.id, attributes: thing.attributes)]
          steps << step(thing, :update_player_admin_status, id: thing.id, admin: true) if thing.admin
          steps
        end

        # An inventory says more than the variable of the item: Aethyr, too, sets the container from it.
        def places
          @things.each { |thing| inventory(thing) }
          @things.each do |thing|
            next if @holders.key?(thing.id) || thing.container.to_s.empty?

            if !thing.container.is_a?(String)
              lose(thing, "its container is no id but a #{thing.container.class}; it lies nowhere")
            elsif @ids.key?(thing.container) then @holders[thing.id] = [thing.container, nil]
            else lose(thing, "its container #{thing.container} does not exist; it lies nowhere")
            end
          end
          ordered(@holders.keys).map { |id| [put(@ids[id], *@holders[id])] }
        end

        def inventory(thing)
          thing.inventory.each do |item, position|
            next lose(thing, "its inventory has #{item}, which does not exist") unless @ids.key?(item)

            before = @holders[item]
            next lose(@ids[item], "lies in #{before[0]} and in #{thing.id}; the first counts") if before

            @holders[item] = [thing.id, position]
          end
          thing.equipment.each_value { |item| @holders[item] ||= [thing.id, nil] if @ids.key?(item) }
        end

        # Holders before what they hold.
        def ordered(ids)
          ids.sort_by { |id| [depth_of(id), id] }
        end

        # An object that lies in itself has an end too: the world refuses it, and the report says so.
        def depth_of(id)
          seen = 0
          while (holder = @holders[id]&.first) && seen <= @holders.size
            id = holder
            seen += 1
          end
          seen
        end

        # Rooms and areas hold by the container alone; what somebody carries, or what has a place, is in an
        # inventory.
        def put(thing, holder, position)
          carried = !position.nil? || (@ids[holder].kind != :room && thing.kind != :player)
          return step(thing, :update_game_object_container, id: thing.id, container_id: holder) unless carried

          fields = { id: holder, item_id: thing.id }
          fields[:position] = Markers.dump_for_world(position) unless position.nil?
          step(thing, :add_item_to_inventory, **fields)
        end

        def worn(thing)
          thing.equipment.filter_map do |slot, item|
            next lose(thing, "it wears #{item}, which does not exist") unless @ids.key?(item)
            next if slot.start_with?("unplaced/")

            [step(thing, :equip_item, id: thing.id, item_id: item, slot: slot)]
          end
        end

        def exits
          @exits = {}
          @things.select(&:exit).filter_map do |thing|
            direction, target = thing.exit
            room = @ids[@holders[thing.id]&.first]
            next lose(thing, "is an exit that is in no room") if room.nil? || room.kind != :room
            next lose(thing, "is an exit that leads nowhere") if target.to_s.empty?

            of_room = (@exits[room.id] ||= {})
            next lose(thing, "is a second exit #{direction} of #{room.id}") if of_room.key?(direction)

            of_room[direction] = target
            [step(thing, :add_room_exit, id: room.id, direction: direction, target_room_id: target)]
          end
        end

        def step(thing, name, **fields)
          Step.new(id: thing.id, type: thing.type, name: name,
                   fields: fields.reject { |_, value| value == "" })
        end

        def lose(thing, what)
          @losses << Loss.new(thing.id, thing.type, what)
          nil
        end
      end
    end
  end
end
