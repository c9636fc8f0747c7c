# frozen_string_literal: true

# Owns the reading of Aethyr's storage, through its StorageMachine: objects as they were saved, by their
# variables, so that nothing of the game has to run and nothing is changed.
require "set"

module Aethyr
  module EventStore
    module Migration
      class Source
        # An object of the game. `kind` is :room, :player or :thing; `inventory` a list of [id, position];
        # `equipment` maps a slot to an id; `exit` is nil, or [direction, id of the target]. All texts are
        # UTF-8.
        Thing = Struct.new(:id, :type, :kind, :name, :generic, :attributes, :container, :inventory,
                           :equipment, :exit, :password, :admin, keyword_init: true)

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
          @storage.open_store(file) do |store|
            store.each_pair { |key, value| found << [Markers.clean(key), Markers.clean(value)] }
          end
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
          admin = fields.delete(:@admin) == true
          fields = texts(id, type, fields)
          thing = Thing.new(id: id, type: type, kind: kind, name: name(id, type, kind, object),
                            generic: fields[:@generic].to_s, container: id_of(get(object, :@container)),
                            inventory: inventory(get(object, :@inventory)),
                            equipment: equipment(get(object, :@equipment)), exit: exit_of(id, type, object))
          if kind == :player
            thing.admin = admin || (!@admin.empty? && thing.name.downcase == @admin)
            thing.password = @passwords[id]
          end
          thing.attributes = attributes(id, type, fields, object)
          thing
        end

        # Texts that are shown to players. Other values keep bytes that are no text, with a marker.
        def texts(id, type, fields)
          %i[@generic @long_desc @short_desc].each do |name|
            next unless fields[name].is_a?(String)

            fields[name] = clean(id, type, name.to_s.delete_prefix("@"), fields[name])
          end
          fields
        end

        def clean(id, type, field, value)
          Markers.clean(value) { lose(id, type, "#{field}: is not UTF-8, and was read as ISO 8859-1") }
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
            key = Markers.clean(name.to_s).delete_prefix("@")
            [key, Markers.dump_for_world(value) { |what| lose(id, type, "#{key}: #{what}") }]
          end
          found["class"] = Markers.clean(object.class.name)
          return found if found.size <= 1000

          lose(id, type, "has #{found.size} attributes; only the first 1000 are carried over")
          found.first(1000).to_h
        end

        # The world wants a name for each player.
        def name(id, type, kind, object)
          found = get(object, :@name).to_s
          found = @names[id].to_s if found.empty? && kind == :player
          name = label(id, type, "name", found)
          return name unless name.empty? && kind == :player

          lose(id, type, "the player has no name; it is named by its id")
          id
        end

        # The world wants names of at most 255 bytes without control characters.
        def label(id, type, field, value)
          found = clean(id, type, field, value)
          label = found.gsub(/[[:cntrl:]]/, " ").byteslice(0, 255).scrub("")
          lose(id, type, "#{field}: #{found.inspect[0, 60]} became #{label.inspect[0, 60]}") if label != found
          label
        end

        # Saved inventories are lists of [id, position]; those of a running game have the objects.
        def inventory(inventory)
          found = []
          inventory&.each do |each|
            item, position = each.is_a?(Array) ? each : [each, inventory.position(each)]
            found << [id_of(item), position.nil? ? nil : Markers.dump_for_world(position)]
          end
          found
        end

        # Equipment maps a position to a list of ids by layer: the slots of the world are "torso", "torso/1".
        def equipment(equipment)
          return {} if equipment.nil?

          slots = {}
          (get(equipment, :@equipment) || {}).each do |position, layers|
            Array(layers).each.with_index do |item, layer|
              slot = Markers.clean(position.to_s)
              slots[layer.zero? ? slot : "#{slot}/#{layer}"] = id_of(item) if item
            end
          end
          worn = slots.values.to_set
          loose = inventory(get(equipment, :@inventory)).map(&:first).reject { |item| worn.include?(item) }
          loose.each.with_index { |item, number| slots["unplaced/#{number}"] = item }
          slots
        end

        def exit_of(id, type, object)
          return unless object.class.ancestors.map(&:name).include?("#{HOME}Exit")

          names = [get(object, :@name), *Array(get(object, :@alt_names))]
          names = names.map { |name| Markers.clean(name.to_s) }.reject(&:empty?)
          named = names.map(&:downcase).find { |name| DIRECTIONS.include?(name) }
          direction = named || names[1] || names.first || "exit"
          [label(id, type, "direction", direction), id_of(get(object, :@exit_room)).to_s]
        end

        # Ids are texts; a running game has the objects. What is neither stays what it is.
        def id_of(object)
          return Markers.clean(object) if object.is_a?(String)

          id = get(object, :@game_object_id) if object
          id ? Markers.clean(id.to_s) : object
        end

        def lose(id, type, what)
          @losses << Loss.new(id, type, Markers.clean(what))
          nil
        end
      end
    end
  end
end
