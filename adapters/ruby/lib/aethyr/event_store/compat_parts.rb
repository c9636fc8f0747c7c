# frozen_string_literal: true

# Owns the parts of Compat: modules that are put before methods of Sequent and of Aethyr.
module Aethyr
  module EventStore
    module Compat
      # Aethyr's commands carry `id`; Sequent wants `aggregate_id`.
      module CommandId
        def initialize(args = {})
          args = args.merge(aggregate_id: args[:id]) if args.key?(:id) && !args.key?(:aggregate_id)
          super(args)
        end
      end

      # Aethyr's handlers call `do_with_aggregate(id, class)`; Sequent wants the command.
      module HandlerId
        Target = Struct.new(:aggregate_id)

        def self.needed?(handler)
          probe = handler.allocate
          probe.define_singleton_method(:repository) { Struct.new(:x) { def load_aggregate(*) = nil }.new }
          Compat.raises?(NoMethodError) { probe.send(:do_with_aggregate, "probe", nil) { nil } }
        end

        protected

        def do_with_aggregate(command, clazz = nil, aggregate_id = nil, &block)
          super(command.is_a?(String) ? Target.new(command) : command, clazz, aggregate_id, &block)
        end
      end

      # Sequent converts texts to the types of attributes, and knows neither Object nor Hash.
      module AnyType
        def parse_attrs_to_correct_types
          loose = self.class.types.select { |_, type| EventCodec::LOOSE.include?(type) }.keys
          return super if loose.empty?

          kept = loose.to_h { |name| [name, public_send(name)] }
          begin
            loose.each { |name| public_send("#{name}=", nil) }
            parsed = super
          ensure
            kept.each { |name, value| public_send("#{name}=", value) }
          end
          kept.each { |name, value| parsed.public_send("#{name}=", value) }
          parsed
        end
      end

      # The routes of a class are not those of its subclasses.
      module Routes
        def self.install(classes, parent)
          classes.each do |each|
            parent.message_router.instanceof_routes.each do |event, handlers|
              matcher = ::Sequent::Core::Helpers::MessageMatchers::InstanceOf.new(event)
              handlers.each { |handler| each.message_router.register_matchers(matcher, handler) }
            end
          end
        end
      end

      # The event of the command RemoveGameObjectAttribute, which Aethyr does not have.
      module RemovedAttributes
        def self.install
          event = Class.new(::Sequent::Core::Event) { attrs key: String }
          ::Aethyr::Core::EventSourcing.const_set(:GameObjectAttributeRemoved, event)
          ::Aethyr::Core::EventSourcing::Domain::GameObject.class_eval do
            on(event) { |removed| @attributes.delete(removed.key) }
          end
        end
      end

      # A container of nil means that the object lies nowhere.
      module Nowhere
        def valid?(*)
          return true if super

          errors.delete(:container_id) if container_id.nil?
          errors.empty?
        end
      end

      # Objects may have no name, as exits.
      module Nameless
        def valid?(*)
          return true if super

          errors.delete(:name) if name.to_s.empty?
          errors.empty?
        end
      end

      # What is being recorded in this thread: an object, or the class of one that is being made.
      Recorded = Struct.new(:object, :storage) do
        def self.current = Thread.current[:aethyr_event_store_recorded]

        def self.as(recorded)
          before = current
          Thread.current[:aethyr_event_store_recorded] = recorded
          yield
        ensure
          Thread.current[:aethyr_event_store_recorded] = before
        end

        def kind
          type = object.is_a?(Class) ? object : object.class
          names = type.ancestors.map(&:name)
          %w[Room Player].find { |name| names.include?("Aethyr::Core::Objects::#{name}") }
        end

        def description = object.is_a?(Class) ? "" : object.instance_variable_get(:@long_desc).to_s

        # As Aethyr stores it; empty if it has none.
        def password
          goid = object.goid unless object.is_a?(Class)
          (goid && storage&.open_store("passwords") { |file| file[goid] }).to_s
        end
      end

      # A room and a player are created as such.
      module Kinds
        def handle_message(command)
          return super unless command.is_a?(Compat.aethyr("CreateGameObject"))

          command.name ||= ""
          create = created(Recorded.current, command)
          return super if create.nil?

          super(create)
          return if command.container_id.nil?

          move = Compat.aethyr("UpdateGameObjectContainer")
          super(move.new(id: command.id, container_id: command.container_id))
        end

        private

        def created(recorded, command)
          common = { id: command.id, name: command.name }
          case recorded&.kind
          when "Room" then Compat.aethyr("CreateRoom").new(**common, description: recorded.description)
          when "Player" then Compat.aethyr("CreatePlayer").new(**common, password_hash: recorded.password)
          end
        end
      end

      # The object is in GDBM before its event is recorded. What hinders the recording, such as a service that
      # is gone, must not stop the game, nor the saving of the other objects.
      module Storage
        KEY = :aethyr_event_store_storing
        NotRecorded = Class.new(StandardError)

        # One step of the recording.
        def self.step(expected = nil)
          yield
        rescue StandardError => e
          raise if Thread.current[KEY].nil? || (expected && e.is_a?(expected))
          raise if e.is_a?(NotRecorded)

          raise NotRecorded, "#{e.class}: #{e.message}"
        end

        module Commands
          def execute_commands(...) = Storage.step { super }
        end

        module Loads
          def load_aggregate(...) = Storage.step(self.class::AggregateNotFound) { super }
        end

        %i[store_object save_player set_password delete_object].each do |name|
          define_method(name) do |object, *arguments|
            outer = Thread.current[KEY]
            Thread.current[KEY] = name
            Recorded.as(Recorded.new(object, self)) { super(object, *arguments) }
          rescue NotRecorded => e
            log("#{name}: stored, but its event was not recorded: #{e.message}", 1)
            nil
          ensure
            Thread.current[KEY] = outer
            # What was only loaded would be old for the next command.
            ::Sequent.aggregate_repository.clear if outer.nil? && OneAppend.pending.nil?
          end
        end
      end

      # Projectors that cannot work: their tables are symbols instead of records.
      module Projectors
        def self.broken?(handler)
          tables = handler.class.managed_tables if handler.class.respond_to?(:managed_tables)
          tables = [tables].flatten
          tables.any?(Symbol) && handler.class.name.to_s.start_with?("Aethyr::")
        end
      end

      # Sequent's log, in that of the game.
      class GameLogger
        attr_accessor :level

        def debug? = false
        def info? = false
        def debug(*) = nil
        def info(*) = nil

        %i[warn error fatal unknown].each do |name|
          define_method("#{name}?") { true }
          define_method(name) do |message = nil, &block|
            text = "[sequent] #{message || block&.call}"
            Object.private_method_defined?(:log) ? log(text, 1) : Kernel.warn(text)
          end
        end
      end
    end
  end
end
