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

      # The object is in GDBM before its event is recorded. A service that is gone must not stop the game.
      module StorageOutage
        %i[store_object save_player set_password delete_object].each do |name|
          define_method(name) do |*arguments|
            super(*arguments)
          rescue AethyrError => e
            log("#{name}: stored, but its event was not recorded: #{e.message}", 1)
            nil
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
