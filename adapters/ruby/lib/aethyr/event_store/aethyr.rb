# frozen_string_literal: true

# Owns what `require "aethyr/event_store/aethyr"` does: with `event_store_address` in the configuration of
# Aethyr, the game uses this event store; without it, Aethyr stays as it was. It may be loaded before Aethyr
# (`ruby -r`, RUBYOPT) or after it. Nothing of the client and of Sequent is loaded before it is needed.
module Aethyr
  module EventStore
    module GameConfig
      OVERLAY = File.expand_path("overlay", __dir__)

      class << self
        # Files of the overlay are found before those of Aethyr that have the same name.
        def overlay
          $LOAD_PATH.delete(OVERLAY)
          $LOAD_PATH.unshift(OVERLAY)
        end

        # Loads the file of Aethyr that a file of the overlay stands before.
        def original(name)
          dir = $LOAD_PATH.find do |each|
            each.to_s != OVERLAY && File.file?(File.join(each.to_s, "#{name}.rb"))
          end
          raise LoadError, "cannot load such file -- #{name}" unless dir

          require File.join(dir.to_s, "#{name}.rb")
        end

        def install
          overlay
          config = ::ServerConfig.singleton_class
          config.prepend(Loaded) unless config <= Loaded
        end

        # The address from the configuration, or nil.
        def address = defined?(::ServerConfig) ? ::ServerConfig[:event_store_address] : nil

        def attach
          overlay
          return unless defined?(::ServerConfig)

          install
          ::ServerConfig.reload if ::ServerConfig.instance_variable_get(:@config)
          return unless address && defined?(::Sequent::Core::EventStore) &&
            defined?(::Aethyr::Core::EventSourcing)

          require "aethyr/event_store/game"
          Game.install
        end
      end

      # `event_store_address` means that event sourcing is switched on.
      module Loaded
        def load(force = false)
          fresh = force || @config.nil?
          config = super
          if fresh && config.respond_to?(:key?)
            if config.key?("event_store_address")
              config[:event_store_address] ||= config["event_store_address"]
            end
            config[:event_sourcing_enabled] = true if config[:event_store_address]
          end
          config
        end
      end
    end
  end
end

Aethyr::EventStore::GameConfig.attach
