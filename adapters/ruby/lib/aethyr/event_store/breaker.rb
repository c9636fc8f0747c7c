# frozen_string_literal: true

# Owns the rule that a game loop waits for a service that is gone only once: 0.5 s, then calls fail at once,
# and every 5 s one call is let through to see whether it is back.
module Aethyr
  module EventStore
    # The breaker is open: the service did not answer a moment ago.
    class ServiceGone < Unavailable; end

    class Breaker
      # Errors that say that the service is gone, in contrast to those that it answers with.
      GONE = [Unavailable, DeadlineExceeded, OutcomeUnknown].freeze

      # A deadline that is over while the service answers, or because it has set a limit, does not mean that
      # it is gone.
      def self.gone?(error)
        return false unless GONE.any? { |type| error.is_a?(type) }
        return true unless error.is_a?(DeadlineExceeded)

        !error.answered && (!error.cause.is_a?(AethyrError) || gone?(error.cause))
      end

      attr_reader :limit, :again

      def initialize(limit: 0.5, again: 5)
        @limit = limit
        @again = again
        @lock = Mutex.new
        @open_until = nil
      end

      def open? = @lock.synchronize { !@open_until.nil? }

      # Calls the block with the seconds that it may take.
      def call
        if (left = closed_for)
          raise ServiceGone.new(format("the event store did not answer; next attempt in %.1f s", left),
                                code: "UNAVAILABLE")
        end

        answer = yield limit
        closed
        answer
      rescue ServiceGone
        raise
      rescue AethyrError => e
        Breaker.gone?(e) ? @lock.synchronize { @open_until = now + again } : closed
        raise
      end

      private

      def closed = @lock.synchronize { @open_until = nil }

      # Seconds until the next attempt, or nil if this call may go through. Only one of the waiting threads
      # may.
      def closed_for
        @lock.synchronize do
          next nil if @open_until.nil?
          next @open_until - now if now < @open_until

          @open_until = now + again
          nil
        end
      end

      def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end
  end
end
