# frozen_string_literal: true

# A stand-in of Aethyr's manager, of its storage and of its registry of handlers.
require "aethyr/core/util/config"
require_relative "../../../../objects"

module Aethyr
  module Extend
    module HandlerRegistry
      def self.handlers = @handlers ||= []
      def self.register_handler(handler) = handlers << handler
    end

    class AdminHandler
      attr_reader :player

      def self.object_added(data, handler = self)
        data[:game_object].subscribe(handler.new(data[:game_object])) if data[:game_object].admin
      end

      def initialize(player, _commands, help_entries: []) = @player = player
      def player_input(_data) = false
    end

    class CommandAction
      def initialize(player) = @player = player
    end
  end
end
require "aethyr/core/event_sourcing/sequent_setup" if ServerConfig[:event_sourcing_enabled]

# Its steps are those of Aethyr: the file first, then the event.
class StorageMachine < MemoryStorage
  def store_object(object)
    raise IOError, "the disk is full" if object.name == "heavy"

    store(object)
    begin
      Sequent.aggregate_repository.load_aggregate(object.goid)
    rescue Sequent::Core::AggregateRepository::AggregateNotFound
      Sequent.command_service.execute_commands(
        Aethyr::Core::EventSourcing::CreateGameObject.new(id: object.goid, name: object.name,
                                                          generic: object.generic,
                                                          container_id: object.container)
      )
    end
  end

  def set_password(player, hash)
    @files["passwords"][player.goid] = hash
    Sequent.command_service.execute_commands(
      Aethyr::Core::EventSourcing::UpdatePlayerPassword.new(id: player.goid, password_hash: hash)
    )
  end
end

class Manager
  def initialize
    @storage = StorageMachine.new
    @actions = []
    Aethyr::Core::EventSourcing::SequentSetup.configure if ServerConfig[:event_sourcing_enabled]
  end

  def create_object(klass, room = nil)
    klass.new("made-#{rand(10**12)}", name: "", container: room).tap do |object|
      Sequent.command_service.execute_commands(
        Aethyr::Core::EventSourcing::CreateGameObject.new(id: object.goid, name: object.name,
                                                          generic: object.generic, container_id: room)
      )
    end
  end

  def submit_action(action) = @actions << action
  def pop_action = @actions.shift
  def find(name, *) = nil
end
