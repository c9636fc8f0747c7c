# frozen_string_literal: true

# Owns the transaction of Sequent: all events of one `execute_commands` are one append. They are published
# after it.
module Aethyr
  module EventStore
    # `config.transaction_provider = Aethyr::EventStore::OneAppend.new(store)`
    class OneAppend
      KEY = :aethyr_event_store_pending

      # What the commands of the running transaction of this thread have committed, or nil.
      def self.pending = Thread.current[KEY]

      def initialize(store = nil)
        @store = store
      end

      def transaction(**)
        return yield if self.class.pending

        queue = Thread.current[:aethyr_event_store_after] = []
        begin
          pending = Thread.current[KEY] = Pending.new
          result = yield
        ensure
          Thread.current[KEY] = nil
        end
        store.append_pending(pending)
        after(queue)
        result
      end
      alias transactional transaction

      # Runs the block after the append of the running transaction; at once if there is none.
      def after_commit(**, &block)
        return block.call if self.class.pending.nil?

        Thread.current[:aethyr_event_store_after] << block
      end

      def after_rollback(**) = nil

      private

      # The events are stored: one failure hinders none of the others. The first is raised at the end.
      def after(queue)
        first = nil
        until queue.empty?
          begin
            queue.shift.call
          rescue StandardError => e
            first ||= e
          end
        end
        raise first if first
      end

      def store = @store || ::Sequent.configuration.event_store
    end

    # The events of a transaction that are not stored yet.
    class Pending
      attr_reader :records, :expected, :events, :streams

      def initialize
        @streams = []
        @records = []
        @expected = {}
        @events = []
      end

      def add(records, expected, events, streams)
        @records.concat(records)
        @streams.concat(streams)
        expected.each { |id, number| @expected[id] = number unless @expected.key?(id) }
        @events.concat(events)
      end

      def empty? = records.empty?

      def last_sequence(id)
        mine = records.count { |record| record.aggregate_id == id }
        mine.zero? ? nil : @expected.fetch(id, 0) + mine
      end
    end
  end
end
