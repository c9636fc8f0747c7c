# frozen_string_literal: true

# Owns the methods that Aethyr's scripts and documentation expect of `$manager`, the rebuild of the world, and
# who acts.
module Aethyr
  module EventStore
    # The name of the player whose command runs in this thread.
    module Actor
      KEY = :aethyr_event_store_actor

      module_function

      def current = Thread.current[KEY]
      def current=(name)
        Thread.current[KEY] = name
      end

      # Calls the block as somebody.
      def as(name)
        before = current
        self.current = name
        yield
      ensure
        self.current = before
      end
    end

    module ManagerMethods
      def self.install
        ::Manager.prepend(self) if defined?(::Manager) && !(::Manager <= self)
        return unless defined?(::Aethyr::Core::EventSourcing::SequentSetup)

        setup = ::Aethyr::Core::EventSourcing::SequentSetup.singleton_class
        setup.prepend(Rebuild) unless setup <= Rebuild
      end

      # Statistics of the event store, under the names of Aethyr.
      def event_store_stats = ::Sequent.configuration.event_store.statistics

      # The StorageMachine, for Aethyr's script of the migration.
      def storage = @storage

      # The service replays and checks all objects and rebuilds its read models, in the background: a Thread
      # whose value is the report; nil if the service is gone.
      def rebuild_world_state = ManagerMethods.rebuild

      # The next action runs in this thread; the events of its commands carry the name of the player.
      def pop_action
        super.tap do |action|
          player = action.instance_variable_get(:@player) if action
          Actor.current = player.respond_to?(:name) ? player.name : nil
        end
      end

      # What happens while an object of a class is recorded is recorded as of this class.
      def create_object(klass, ...)
        Compat::Recorded.as(Compat::Recorded.new(klass)) { super }
      end

      def self.rebuild
        state = ::Sequent.configuration.event_store.statistics[:state]
        return Thread.new { report } unless state == :UNREACHABLE

        log("World state was not rebuilt: the event store does not answer", 0)
        nil
      end

      def self.report
        report = ::Sequent.configuration.event_store.client.rebuild_world_state
        log("World state rebuilt: #{report.aggregates} objects, #{report.events} events, " \
            "#{report.damaged_total} damaged, #{report.warnings_total} warnings", 1)
        report.damaged.each { |each| log("damaged: #{each.aggregate_id}: #{each.problem}", 1) }
        report
      rescue AethyrError => e
        log("World state was not rebuilt: #{e.message}", 0)
        nil
      end

      # `SequentSetup.rebuild_world_state`: nobody waits for it.
      module Rebuild
        def rebuild_world_state = !ManagerMethods.rebuild.nil?
      end
    end
  end
end
