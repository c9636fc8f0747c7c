# frozen_string_literal: true

# Owns how the adapter gets into Aethyr: the configuration, the event store, Sequent's configuration, the
# manager.
require "aethyr/event_store/aethyr_event_store"
require "aethyr/event_store/compat"
require "aethyr/event_store/manager_methods"

module Aethyr
  module EventStore
    module Game
      FILES = %w[domain events commands command_handlers projections].freeze

      module_function

      # Puts the event store into the place of Aethyr's, after Sequent was loaded.
      def install
        FILES.each { |file| require "aethyr/core/event_sourcing/#{file}" }
        home = ::Aethyr::Core::EventSourcing
        home.send(:remove_const, :ImmudbEventStore) if home.const_defined?(:ImmudbEventStore, false)
        home.const_set(:ImmudbEventStore, AethyrEventStore)
        ::Sequent.singleton_class.prepend(Configured) unless ::Sequent.singleton_class <= Configured
        Compat.install
        commands
      end

      # The commands for administrators, if the game has its registry of handlers.
      def commands
        return unless defined?(::Aethyr::Extend::HandlerRegistry) && defined?(::Aethyr::Extend::AdminHandler)

        require "aethyr/event_store/admin_commands"
        AdminCommands.register
      end

      # After Sequent was configured by Aethyr.
      module Configured
        def configure(...)
          super.tap do
            if configuration.event_store.is_a?(AethyrEventStore)
              Compat.install
              Compat.configure(configuration)
              ManagerMethods.install
            end
          end
        end
      end
    end
  end
end
