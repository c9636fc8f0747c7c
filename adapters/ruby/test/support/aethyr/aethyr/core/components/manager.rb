# frozen_string_literal: true

# A stand-in of Aethyr's manager and of its registry of handlers.
require "aethyr/core/util/config"

module Aethyr
  module Extend
    module HandlerRegistry
      def self.handlers = @handlers ||= []
      def self.register_handler(handler) = handlers << handler
    end

    class AdminHandler
      attr_reader :player

      def self.object_added(data, handler = self) =
        data[:game_object].subscribe(handler.new(data[:game_object]))

      def initialize(player, _commands, help_entries: []) = @player = player
      def player_input(_data) = false
    end

    class CommandAction
      def initialize(player) = @player = player
    end
  end
end
require "aethyr/core/event_sourcing/sequent_setup" if ServerConfig[:event_sourcing_enabled]

class StorageMachine
  attr_reader :stored

  def store_object(object)
    (@stored ||= []) << object
    Sequent.aggregate_repository.load_aggregate(object)
  end
end

class Manager
  def initialize
    @storage = StorageMachine.new
    @actions = []
    Aethyr::Core::EventSourcing::SequentSetup.configure if ServerConfig[:event_sourcing_enabled]
  end

  def submit_action(action) = @actions << action
  def pop_action = @actions.shift
  def find(name, *) = nil
end
