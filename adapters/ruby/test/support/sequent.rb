# frozen_string_literal: true

# Owns a small stand-in of the classes of Sequent that the adapter touches, with the behaviour that it depends
# on. With SEQUENT_REAL in the environment, the real Sequent is loaded instead.
if ENV["SEQUENT_REAL"]
  require "logger"
  require "sequent"
else
  require "base64"
  require "set"

  module Sequent
    class Configuration
      attr_accessor :event_store, :command_handlers, :event_handlers, :event_publisher, :transaction_provider,
        :logger,
                    :aggregate_repository, :command_service

      def initialize
        @command_handlers = []
        @event_handlers = []
        @event_publisher = Core::EventPublisher.new
        @transaction_provider = Core::Transactions::NoTransactions.new
        @aggregate_repository = Core::AggregateRepository.new
        @command_service = Core::CommandService.new
        @logger = Object.new.tap { |logger| def logger.debug? = raise(NoMethodError, "level of nil") }
      end
    end

    class << self
      def configuration = @configuration ||= Configuration.new
      def configure = yield(configuration)
      def command_service = configuration.command_service
      def aggregate_repository = configuration.aggregate_repository
    end

    module Core
      class EventStore
        class OptimisticLockingError < RuntimeError; end

        class DeserializeEventError < RuntimeError
          def initialize(event_hash) = super("Event hash: #{event_hash.inspect}")
        end
      end

      class AggregateKeyNotUniqueError < RuntimeError
        attr_reader :aggregate_type, :aggregate_id

        def initialize(message)
          super
          @aggregate_type, @aggregate_id = message[/aggregate (.*)/, 1].split
        end
      end

      EventStream = Struct.new(:aggregate_type, :aggregate_id, :events_partition_key, :snapshot_outdated_at,
                               :unique_keys, keyword_init: true)

      module Helpers
        module MessageMatchers
          InstanceOf = Struct.new(:expected_class)
        end

        class Router
          attr_reader :instanceof_routes

          def initialize = @instanceof_routes = {}

          def register_matchers(matcher, handler)
            (@instanceof_routes[matcher.expected_class] ||= Set.new) << handler
          end
        end

        module MessageHandler
          def self.included(host) = host.extend(ClassMethods)

          module ClassMethods
            def message_router = @message_router ||= Router.new

            def on(*types, &block)
              types.each do |type|
                message_router.register_matchers(MessageMatchers::InstanceOf.new(type), block)
              end
            end

            def handles_message?(message) = message_router.instanceof_routes.key?(message.class)
          end

          def handle_message(message)
            self.class.message_router.instanceof_routes.fetch(message.class, []).each do |handler|
              instance_exec(message, &handler)
            end
          end
        end

        module Attributes
          def self.included(host) = host.extend(ClassMethods)

          module ClassMethods
            def types = @types ||= superclass.respond_to?(:types) ? superclass.types.dup : {}

            def attrs(given)
              types.merge!(given)
              attr_accessor(*given.keys)
            end
          end

          def set(args)
            unknown = args.keys - self.class.types.keys
            raise ArgumentError, "unknown attributes #{unknown}" if unknown.any?

            args.each { |name, value| instance_variable_set("@#{name}", value) }
          end
        end
      end

      class Event
        include Helpers::Attributes
        attrs aggregate_id: String, sequence_number: Integer, created_at: Time

        def initialize(args = {})
          set(args)
          raise "Missing aggregate_id" unless @aggregate_id
          raise "Missing sequence_number" unless @sequence_number

          @created_at ||= Time.now
        end
      end

      class SnapshotEvent < Event
        attrs data: String
      end

      class TypeConversionError < RuntimeError; end

      class Command
        include Helpers::Attributes
        attrs aggregate_id: String, user_id: String

        def self.requires(*names) = (@required ||= []).concat(names)
        def self.required = @required || []

        def initialize(args = {})
          raise ArgumentError, "Missing aggregate_id" if args[:aggregate_id].nil?

          set(args)
        end

        def errors = @errors ||= Set.new

        def valid?(*)
          errors.replace(self.class.required.select { |name| public_send(name).to_s.empty? })
          errors.empty?
        end

        def parse_attrs_to_correct_types
          loose = self.class.types.find do |name, type|
            [Object, Hash].include?(type) && !public_send(name).nil?
          end
          raise TypeConversionError, "no conversion for #{loose[1]}" if loose

          dup
        end
      end

      class AggregateRoot
        include Helpers::MessageHandler
        attr_reader :id, :uncommitted_events, :sequence_number

        class << self
          attr_reader :unique_key_definitions

          def unique_key(scope, *names) = (@unique_key_definitions ||= {})[scope] = names

          def load_from_history(stream, events)
            first, *rest = events
            if first.is_a?(SnapshotEvent)
              root = Marshal.load(Base64.decode64(first.data))
              rest.each { |event| root.apply_event(event) }
              return root
            end
            allocate.tap { |root| root.load_from_history(stream, events) }
          end
        end

        def initialize(id)
          @id = id
          @uncommitted_events = []
          @sequence_number = 1
        end

        def load_from_history(_stream, events)
          initialize_plain(events.first.aggregate_id)
          events.each { |event| apply_event(event) }
        end

        def event_stream
          EventStream.new(aggregate_type: self.class.name, aggregate_id: id, unique_keys: unique_keys)
        end

        def unique_keys
          (self.class.unique_key_definitions || {}).transform_values do |names|
            names.to_h { |name| [name, public_send(name)] }.compact
          end.reject { |_, values| values.empty? }
        end

        def clear_events = @uncommitted_events = []

        def take_snapshot
          SnapshotEvent.new(aggregate_id: id, sequence_number: sequence_number,
                            data: Base64.encode64(Marshal.dump(self)))
        end

        def apply_event(event)
          handle_message(event)
          @sequence_number = event.sequence_number + 1
        end

        protected

        def apply(type, args = {})
          event = type.new(**args, aggregate_id: id, sequence_number: sequence_number)
          apply_event(event)
          @uncommitted_events << event
        end

        private

        def initialize_plain(id)
          @id = id
          @uncommitted_events = []
          @sequence_number = 1
        end
      end

      class BaseCommandHandler
        include Helpers::MessageHandler

        protected

        def repository = Sequent.configuration.aggregate_repository

        def do_with_aggregate(command, clazz = nil, aggregate_id = nil)
          yield repository.load_aggregate(aggregate_id.nil? ? command.aggregate_id : aggregate_id, clazz)
        end
      end

      class AggregateRepository
        class AggregateNotFound < StandardError; end

        def add_aggregate(aggregate) = aggregates[aggregate.id] = aggregate

        def load_aggregate(id, clazz = nil)
          aggregates[id] ||= begin
            found = Sequent.configuration.event_store.load_events_for_aggregates([id]).map do |stream, events|
              Object.const_get(stream.aggregate_type).load_from_history(stream, events)
            end
            raise AggregateNotFound, id if found.empty?

            found.first
          end
          raise TypeError, id if clazz && !(aggregates[id].is_a? clazz)

          aggregates[id]
        end

        def commit(command)
          changed = aggregates.values.reject { |each| each.uncommitted_events.empty? }
          streams = changed.map { |each| [each.event_stream, each.uncommitted_events] }
          changed.each(&:clear_events)
          Sequent.configuration.event_store.commit_events(command, streams) unless streams.empty?
        end

        def clear = Thread.current[:standin_aggregates] = nil

        private

        def aggregates = Thread.current[:standin_aggregates] ||= {}
      end

      class CommandService
        def execute_commands(*commands)
          configuration = Sequent.configuration
          configuration.transaction_provider.transactional do
            commands.each do |command|
              raise ArgumentError, "Invalid command #{command.class}" unless command.valid?

              parsed = command.parse_attrs_to_correct_types
              handlers = configuration.command_handlers.select { |each| each.class.handles_message?(parsed) }
              handlers.each { |each| each.handle_message(parsed) }
              configuration.aggregate_repository.commit(parsed)
            end
          end
        ensure
          configuration.aggregate_repository.clear
        end
      end

      class EventPublisher
        def publish_events(events)
          events.each do |event|
            Sequent.configuration.event_handlers.each { |each| each.handle_message(event) }
          end
        end
      end

      module Transactions
        class NoTransactions
          def transactional = yield
        end
      end
    end

    Command = Core::Command
    Event = Core::Event
    AggregateRoot = Core::AggregateRoot
    CommandHandler = Core::BaseCommandHandler
  end
end
