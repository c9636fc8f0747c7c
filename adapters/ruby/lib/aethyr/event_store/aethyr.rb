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
          config.prepend(Setting) unless config <= Setting
        end

        # The address from the configuration, or nil.
        def address = defined?(::ServerConfig) ? ::ServerConfig[:event_store_address] : nil

        # Aethyr switches event sourcing off if Sequent cannot be loaded; the migration does, too.
        def switch_off = @off = true
        def enabled? = !@off && !address.nil?

        def attach
          overlay
          return unless defined?(::ServerConfig)

          install
          return unless address && defined?(::Sequent::Core::EventStore) &&
            defined?(::Aethyr::Core::EventSourcing)

          require "aethyr/event_store/game"
          Game.install
        end
      end

      # `event_store_address` means that event sourcing is switched on. Aethyr saves its configuration at each
      # start, so nothing is written into it.
      module Setting
        def [](item)
          return GameConfig.enabled? if item == :event_sourcing_enabled && GameConfig.address
          return load.fetch(item) { load[item.to_s] } if item.to_s.start_with?("event_store_")

          super
        end

        def []=(item, value)
          return super unless item == :event_sourcing_enabled && GameConfig.address

          GameConfig.switch_off unless value
        end

        def event_sourcing_enabled = self[:event_sourcing_enabled] || false
        def has_setting?(item) = super || (item.to_s.start_with?("event_store_") && super(item.to_s))
      end
    end
  end
end

Aethyr::EventStore::GameConfig.attach
