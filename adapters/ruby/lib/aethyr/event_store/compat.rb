# frozen_string_literal: true

# Owns what Aethyr's own classes need to run on Sequent 8.2 and later. Each part says which versions need it,
# tests by behaviour whether it is still needed, and does nothing if it is not.
require "aethyr/event_store/compat_parts"

module Aethyr
  module EventStore
    module Compat
      Part = Struct.new(:name, :versions, :needed, :install, keyword_init: true)

      @installed = {}

      class << self
        # Names of the parts that were installed, with the versions that need them.
        attr_reader :installed

        # The parts for classes: once, after Aethyr's classes were loaded.
        def install
          CLASSES.each { |part| try(part) }
          installed
        end

        # The parts for Sequent's configuration: after each `Sequent.configure` with this event store.
        def configure(config)
          return unless config.event_store.is_a?(SequentEventStore)

          CONFIGURATION.each { |part| try(part, config) }
        end

        private

        def try(part, *arguments)
          return if installed.key?(part.name) && arguments.empty?
          return unless part.needed.call(*arguments)

          part.install.call(*arguments)
          installed[part.name] = part.versions
        end
      end

      def self.aethyr(name = nil)
        found = ::Aethyr::Core::EventSourcing if defined?(::Aethyr::Core::EventSourcing)
        return found if found.nil? || name.nil?

        name.split("::").inject(found) do |module_, each|
          module_.const_get(each) if module_&.const_defined?(each, false)
        end
      end

      def self.raises?(*errors)
        yield
        false
      rescue *errors
        true
      end

      CLASSES = [
        Part.new(
          name: "commands with id", versions: "Sequent 1.0 to 9: commands need aggregate_id; Aethyr has id",
          needed: lambda {
            command = aethyr("DeleteGameObject")
            command && raises?(ArgumentError) { command.new(id: "probe") }
          },
          install: -> { ::Sequent::Core::Command.prepend(CommandId) }
        ),
        Part.new(
          name: "handlers with id",
          versions: "Sequent 1.0 to 9: do_with_aggregate takes the command; Aethyr gives the id",
          needed: lambda {
            handler = aethyr("GameObjectCommandHandler")
            handler && HandlerId.needed?(handler)
          },
          install: -> { aethyr("GameObjectCommandHandler").prepend(HandlerId) }
        ),
        Part.new(
          name: "attributes of any type",
            versions: "Sequent 8 and 9: no conversion for attrs of type Object and Hash",
          needed: lambda {
            command = aethyr("UpdateGameObjectAttribute")
            command && raises?(StandardError) do
              command.new(id: "probe", aggregate_id: "probe", key: "key",
                          value: [1]).parse_attrs_to_correct_types
            end
          },
          install: -> { ::Sequent::Core::Command.prepend(AnyType) }
        ),
        Part.new(
          name: "removed attributes", versions: "all: Aethyr has no event for RemoveGameObjectAttribute",
          needed: -> { aethyr("Domain::GameObject") && !aethyr("GameObjectAttributeRemoved") },
          install: -> { RemovedAttributes.install }
        ),
        Part.new(
          name: "inherited handlers",
          versions: "Sequent 1.0 to 9: handlers of GameObject are not those of Room, Player",
          needed: lambda {
            created = aethyr("GameObjectCreated")
            created && !aethyr("Domain::Room").handles_message?(created.allocate)
          },
          install: -> do
            Routes.install([aethyr("Domain::Room"), aethyr("Domain::Player")], aethyr("Domain::GameObject"))
          end
        ),
        Part.new(
          name: "things that lie nowhere",
            versions: "all: a container_id of nil is not valid, so Room#remove was lost",
          needed: lambda {
            command = aethyr("UpdateGameObjectContainer")
            command && !command.new(id: "probe", aggregate_id: "probe", container_id: nil).valid?
          },
          install: -> { aethyr("UpdateGameObjectContainer").prepend(Nowhere) }
        ),
        Part.new(
          name: "things without a name",
            versions: "all: a name of \"\" is not valid, so things without a name were not recorded",
          needed: lambda {
            command = aethyr("CreateGameObject")
            command && !command.new(id: "probe", aggregate_id: "probe", name: "").valid?
          },
          install: -> { aethyr("CreateGameObject").prepend(Nameless) }
        ),
        Part.new(
          name: "rooms and players",
          versions: "all: Aethyr records rooms, and what it saves first, as GameObject",
          needed: -> { aethyr("GameObjectCommandHandler") && aethyr("CreateGameObject") },
          install: -> { aethyr("GameObjectCommandHandler").prepend(Kinds) }
        ),
        Part.new(
          name: "storage without the service",
            versions: "all: StorageMachine does not rescue errors of the event store",
          needed: -> { defined?(::StorageMachine) && !(::StorageMachine <= Storage) },
          install: lambda {
            ::StorageMachine.prepend(Storage)
            ::Sequent::Core::CommandService.prepend(Storage::Commands)
            ::Sequent::Core::AggregateRepository.prepend(Storage::Loads)
          }
        ),
        Part.new(
          name: "snapshots", versions: "Sequent 9: take_snapshot needs enable_snapshots",
          needed: lambda {
            object = aethyr("Domain::GameObject")
            object.respond_to?(:snapshots_enabled?) && !object.snapshots_enabled?
          },
          install: lambda {
            %w[GameObject Room Player].each { |name| aethyr("Domain::#{name}").enable_snapshots }
          }
        )
      ].freeze

      CONFIGURATION = [
        Part.new(
          name: "logger",
          versions: "Ruby 3.3 and Aethyr: Logger#initialize is replaced, Sequent's logger has no level",
          needed: ->(config) { raises?(StandardError) { config.logger.debug? } },
          install: ->(config) { config.logger = GameLogger.new }
        ),
        Part.new(
          name: "transaction", versions: "all: without a database, and for one append per execute_commands",
          needed: ->(config) { config.transaction_provider.class.name.to_s.start_with?("Sequent::") },
          install: ->(config) { config.transaction_provider = OneAppend.new(config.event_store) }
        ),
        Part.new(
          name: "projectors", versions: "Sequent 8 and 9: Aethyr's projectors name their tables by symbols",
          needed: ->(config) { config.event_handlers.any? { |each| Projectors.broken?(each) } },
          install: lambda { |config|
            config.event_handlers = config.event_handlers.reject { |each| Projectors.broken?(each) }
          }
        )
      ].freeze
    end
  end
end
