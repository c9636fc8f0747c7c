# frozen_string_literal: true

# Owns the reading of Aethyr's storage, through its StorageMachine: objects as they were saved, by their
# variables, so that nothing of the game has to run and nothing is changed.
require "set"

module Aethyr
  module EventStore
    module Migration
      # An object of the game. `kind` is :room, :player or :thing; `inventory` a list of [id, position];
      # `equipment` maps a slot to an id; `exit` is nil, or [direction, id of the target].
      Thing = Struct.new(:id, :type, :kind, :name, :generic, :description, :attributes, :container,
                         :inventory,
                         :equipment, :exit, :password, :admin, keyword_init: true)

      class Source
        # Variables that are no state of the object, or that have a place of their own.
        LEFT_OUT = %i[@game_object_id @name @container @inventory @equipment @local_registrations
                      @observer_peers @mutex @player @help_library].freeze
        DIRECTIONS = %w[north south east west northeast northwest southeast southwest up down in out].freeze
        HOME = "Aethyr::Core::Objects::"

        attr_reader :losses

        def initialize(storage, admin: nil)
          @storage = storage
          @admin = admin.to_s.downcase
          @losses = []
        end

        # All objects, players included.
        def things
          @passwords = pairs("passwords").to_h
          @names = pairs("players").to_h { |name, id| [id, name] }
          ids = pairs("goids")
          known = ids.to_set(&:first)
          ids += @names.keys.reject { |id| known.include?(id) }.map { |id| [id, "#{HOME}Player"] }
          found = []
          ids.group_by(&:last).each do |type, list|
            raw(type, list.map(&:first)).each do |id, bytes|
              thing = thing(id, type, bytes)
              found << thing if thing
            end
            yield "read #{list.size} of #{type}" if block_given?
          end
          found.sort_by(&:id)
        end

        private

        def pairs(file)
          found = []
          @storage.open_store(file) { |store| store.each_pair { |key, value| found << [key.dup, value.dup] } }
          found.sort
        rescue SystemCallError => e
          lose(file, "file", "cannot be read: #{e.message}")
          []
        end

        def raw(type, ids)
          found = []
          @storage.open_store(type) { |store| ids.each { |id| found << [id, store[id]] } }
          found
        rescue StandardError => e
          ids.each { |id| lose(id, type, "its file cannot be read: #{e.message}") }
          []
        end

        def thing(id, type, bytes)
          return lose(id, type, "listed in goids, but there is no such object") if bytes.nil?

          object = Marshal.load(bytes) # The game's own files, as the game reads them.
          build(id, type, object)
        rescue StandardError => e
          lose(id, type, "cannot be read: #{e.class}: #{e.message}")
        end

        def build(id, type, object)
          kind = kind(object)
          fields = variables(object)
          admin = fields.delete(:@admin)
          thing = Thing.new(id: id, type: type, kind: kind, name: name(id, type, kind, object),
                            admin: admin == true,
                            container: get(object, :@container),
                            inventory: inventory(get(object, :@inventory)),
                            equipment: equipment(get(object, :@equipment)), exit: exit_of(object))
          thing.generic = fields.delete(:@generic).to_s if kind == :thing
          thing.description = fields.delete(:@long_desc).to_s if kind == :room
          thing.admin ||= kind == :player && !@admin.empty? && thing.name.downcase == @admin
          thing.password = @passwords[id] if kind == :player
          thing.attributes = attributes(id, type, fields, object)
          thing
        end

        # Not by methods: GameObject#method_missing answers to every name.
        def get(object, name) = object.instance_variable_get(name)

        def kind(object)
          names = object.class.ancestors.map(&:name)
          return :player if names.include?("#{HOME}Player")

          names.include?("#{HOME}Room") ? :room : :thing
        end

        def variables(object)
          out = LEFT_OUT
          out += object.class.volatile_vars if object.class.respond_to?(:volatile_vars)
          (object.instance_variables - out).to_h { |name| [name, get(object, name)] }
        end

        def attributes(id, type, fields, object)
          capacity = get(object, :@inventory)&.instance_variable_get(:@capacity)
          fields = fields.merge(:@inventory_capacity => capacity) if capacity
          found = fields.to_h do |name, value|
            key = name.to_s.delete_prefix("@")
            [key, Markers.dump_for_world(value) { |what| lose(id, type, "#{key}: #{what}") }]
          end
          found["class"] = object.class.name
          return found if found.size <= 1000

          lose(id, type, "has #{found.size} attributes; only the first 1000 are carried over")
          found.first(1000).to_h
        end

        # The world wants names of at most 255 bytes without control characters, and a name for each player.
        def name(id, type, kind, object)
          found = get(object, :@name).to_s
          found = @names[id].to_s if found.empty? && kind == :player
          clean = found.scrub("?").gsub(/[[:cntrl:]]/, " ").byteslice(0, 255).scrub("")
          lose(id, type, "name: #{found.inspect[0, 60]} became #{clean.inspect[0, 60]}") if clean != found
          return clean unless clean.empty? && kind == :player

          lose(id, type, "the player has no name; it is named by its id")
          id
        end

        # Saved inventories are lists of [id, position]; those of a running game have the objects.
        def inventory(inventory)
          found = []
          inventory&.each do |each|
            found << (each.is_a?(Array) ? [id(each[0]), each[1]] : [id(each), inventory.position(each)])
          end
          found
        end

        # Equipment maps a position to a list of ids by layer: the slots of the world are "torso", "torso/1".
        def equipment(equipment)
          return {} if equipment.nil?

          slots = {}
          (get(equipment, :@equipment) || {}).each do |position, layers|
            Array(layers).each.with_index do |item, layer|
              slots[layer.zero? ? position.to_s : "#{position}/#{layer}"] = id(item) if item
            end
          end
          worn = slots.values.to_set
          loose = inventory(get(equipment, :@inventory)).map(&:first).reject { |item| worn.include?(item) }
          loose.each.with_index { |item, number| slots["unplaced/#{number}"] = item }
          slots
        end

        def exit_of(object)
          return unless object.class.ancestors.map(&:name).include?("#{HOME}Exit")

          names = [get(object, :@name), *Array(get(object, :@alt_names))].map(&:to_s).reject(&:empty?)
          direction = names.map(&:downcase).find { |name| DIRECTIONS.include?(name) } ||
                      Array(get(object, :@alt_names)).first || names.first || "exit"
          [direction.to_s.gsub(/[[:cntrl:]]/, " ").byteslice(0, 255).scrub(""), get(object, :@exit_room)]
        end

        def id(object) = object.is_a?(String) ? object : (get(object, :@game_object_id) || object).to_s

        def lose(id, type, what)
          @losses << Loss.new(id, type, what)
          nil
        end
      end
    end
  end
end
