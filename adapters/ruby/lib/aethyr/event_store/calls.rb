# frozen_string_literal: true

# Owns the calls in flight of one transport: a call is cancelled when its time is over, and all of them, with
# the waits between attempts, end with `close`.
module Aethyr
  module EventStore
    class Calls
      # Seconds that the thread waits for another call with a limit before it ends.
      IDLE = 10

      def initialize
        @lock = Mutex.new
        @changed = ConditionVariable.new
        @limits = {}.compare_by_identity
        @closed = false
      end

      def closed? = @closed
      def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

      # The block gets an object for `limit`. The call is cancelled when the block has ended.
      def during(call)
        flight = Flight.new(call)
        @lock.synchronize do
          raise Errors.closed if @closed

          @limits[flight] = nil
        end
        yield flight
      rescue GRPC::Cancelled
        raise GRPC::DeadlineExceeded, "no answer came in time" if flight&.late

        raise
      ensure
        @lock.synchronize { @limits.delete(flight) }
        call.cancel
      end

      # From now on, the call may take this many seconds; with nil, any time.
      def limit(flight, seconds)
        @lock.synchronize do
          @limits[flight] = at = seconds && now + seconds
          next if at.nil?

          # A thread does not outlive a fork.
          @thread = start unless @thread&.alive?
          @changed.broadcast if at < @wakes
        end
      end

      # Waits, but no longer than until `close`.
      def pause(seconds)
        over = now + seconds
        @lock.synchronize do
          until @closed || (left = over - now) <= 0
            @changed.wait(@lock, left)
          end
        end
      end

      def close
        flights = @lock.synchronize do
          @closed = true
          @changed.broadcast
          @limits.keys
        end
        flights.each { |flight| flight.call.cancel }
      end

      # One call. `late`: it was cancelled because its time was over.
      Flight = Struct.new(:call, :late)

      private

      def start
        @wakes = 0
        Thread.new { @lock.synchronize { watch } }.tap { |thread| thread.name = "aethyr deadlines" }
      end

      def watch
        until @closed
          at = @limits.each_value.reject(&:nil?).min
          @wakes = at || (now + IDLE)
          @changed.wait(@lock, [@wakes - now, 0.001].max)
          break if at.nil? && now >= @wakes && @limits.each_value.none?

          cancel_late
        end
      ensure
        @thread = nil
      end

      def cancel_late
        @limits.each do |flight, at|
          next if at.nil? || at > now

          flight.late = true
          flight.call.cancel
          @limits[flight] = nil
        end
      end
    end
  end
end
