# frozen_string_literal: true

# Owns how each object is to be in the service: what the storage says, with one place for each object, and as
# the kind that the service already knows it as.
module Aethyr
  module EventStore
    module Migration
      class Layout
        RECORDED = { room: "Room", player: "Player", thing: "GameObject" }.freeze

        attr_reader :things, :losses

        def initialize(things, world)
          @things = things
          @world = world
          @ids = things.to_h { |thing| [thing.id, thing] }
          @losses = []
          @places = {}
          @exits = Hash.new { |exits, room| exits[room] = {} }
          things.each { |thing| hold(thing) }
          things.each { |thing| lay(thing) }
          things.each { |thing| lead(thing) if thing.exit }
          @states = things.to_h { |thing| [thing.id, state(thing)] }
        end

        def [](id) = @states[id]

        # The objects, holders before what they hold.
        def ordered = @ordered ||= things.sort_by { |thing| [depth_of(thing.id), thing.id] }

        # Texts: id, field, what was expected and what was found in `world`.
        def differences(world)
          things.flat_map do |thing|
            found = world[thing.id]
            next "#{thing.id}: #{found || "is not in the service"}" unless found.is_a?(State)

            wanted = self[thing.id]
            State.members.reject { |field| same?(wanted, found, field) }.map do |field|
              "#{thing.id}: #{field}: expected #{short(wanted[field])}, found #{short(found[field])}"
            end
          end
        end

        private

        def same?(wanted, found, field)
          wanted[field] == found[field] || (field == :password && found.password == :unknown)
        end

        def short(value) = value.inspect[0, 200]

        # An inventory says more than the variable of the item: Aethyr, too, sets the container from it. What
        # is worn is in no inventory.
        def hold(thing)
          carried, worn = thing.equipment.partition { |slot, _| slot.start_with?("unplaced/") }
          worn.each { |slot, item| put(thing, item, :worn, slot) }
          carried.each { |_, item| put(thing, item, :carried) }
          thing.inventory.each do |item, position|
            place = @places[item]
            put(thing, item, how(thing, item, position), position) unless place&.holder == thing.id
          end
        end

        def put(holder, item, how, detail = nil)
          what = how == :worn ? "it wears" : "its inventory has"
          return lose(holder, "#{what} #{item}, which does not exist") unless @ids.key?(item)

          before, place = @places[item], Place.new(holder.id, how, detail)
          return @places[item] = place unless before

          lose(@ids[item], "is #{before}, and #{place}; the first counts")
        end

        # Rooms hold by the container alone, and so does what holds a player; what somebody carries, or what
        # has a place, is in an inventory.
        def how(holder, item, position)
          lies = position.nil? && (holder.kind == :room || @ids[item]&.kind == :player)
          lies ? :lies : :carried
        end

        def lay(thing)
          container = thing.container
          unless @places.key?(thing.id) || container.to_s.empty?
            if !container.is_a?(String)
              lose(thing, "its container is no id but a #{container.class}; it lies nowhere")
            elsif @ids.key?(container)
              @places[thing.id] = Place.new(container, how(@ids[container], thing.id, nil))
            else lose(thing, "its container #{container} does not exist; it lies nowhere")
            end
          end
          return unless inside_itself?(thing.id)

          lose(thing, "lies in itself, by way of #{@places[thing.id].holder}; it lies nowhere")
          @places.delete(thing.id)
        end

        def inside_itself?(id)
          holder = id
          seen = {}
          while (holder = @places[holder]&.holder)
            return true if holder == id
            return false if seen[holder]

            seen[holder] = true
          end
          false
        end

        def depth_of(id)
          depth = 0
          while (id = @places[id]&.holder)
            depth += 1
          end
          depth
        end

        def lead(thing)
          direction, target = thing.exit
          room = @ids[@places[thing.id]&.holder]
          return lose(thing, "is an exit that is in no room") if room.nil? || room.kind != :room
          return lose(thing, "is an exit that leads nowhere") if target.empty?
          return lose(thing, "is a second exit #{direction} of #{room.id}") if @exits[room.id].key?(direction)

          @exits[room.id][direction] = target
        end

        def state(thing)
          found = @world[thing.id]
          kind = found.is_a?(State) ? found.kind : thing.kind
          recorded_otherwise(thing, kind) if kind != thing.kind
          attributes = JSON.parse(JSON.generate(thing.attributes, max_nesting: 0), max_nesting: 0)
          state = State.new(kind: kind, name: thing.name, attributes: attributes, place: @places[thing.id])
          describe(thing, state) if kind == :room
          if kind == :player
            state.password = thing.password.to_s
            state.admin = thing.admin
            lose(thing, "has no password; nobody can log in as this player") if state.password.empty?
          end
          state
        end

        # `long_desc` of a room is its description, and a text.
        def describe(thing, room)
          text = room.attributes.delete("long_desc")
          lose(thing, "long_desc is no text") unless text.nil? || text.is_a?(String)
          room.description = text.is_a?(String) ? text : ""
          room.exits = @exits.fetch(thing.id, {})
        end

        # The game has recorded the object before the migration did. The kind of an aggregate cannot change.
        def recorded_otherwise(thing, kind)
          what = { room: "; its exits are not carried over: #{@exits.fetch(thing.id, {}).keys.join(", ")}",
                   player: "; its password and whether it is an administrator are not carried over" }
          lose(thing, "is recorded as #{RECORDED[kind]}, not as #{RECORDED[thing.kind]}#{what[thing.kind]}")
        end

        def lose(thing, what)
          @losses << Loss.new(thing.id, thing.type, what)
          nil
        end
      end
    end
  end
end
