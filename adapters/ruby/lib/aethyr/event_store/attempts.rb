# frozen_string_literal: true

# Owns when a call is sent again, how long it waits before that, and when it is given up.
module Aethyr
  module EventStore
    # The attempts of one call.
    class Attempts
      FIRST_WAIT = 0.05
      LONGEST_WAIT = 2.0
      # Where there is no deadline, a delay that the service asks for is no longer.
      LONGEST_DELAY = 60.0
      # An answer of the service, by its code, after which the same request may be sent again.
      AGAIN = %w[UNAVAILABLE UNKNOWN CANCELLED DEADLINE_EXCEEDED].freeze
      # Codes without a reason after which the next host is asked.
      LEFT = %w[UNAVAILABLE DEADLINE_EXCEEDED].freeze
      # What gRPC says if it has no connection to send a request on, and not because of time.
      NO_CONNECTION = /\A(?!.*[Tt]ime).*(to all addresses|to all backends|resolution|lookup|Domain name)/m
                      .freeze

      def initialize(transport, deadline, write: false)
        @transport = transport
        @deadline = deadline
        @write = write
        @unknown = @answered = false
        renew
      end

      # Something arrived: the deadline counts from now on.
      def renew
        @failures = 0
        @over = @transport.now + @deadline
      end

      # A part of a long answer arrived.
      def answered = @answered = true

      # Seconds for the next attempt, or for the next message of a stream: at most `longest`.
      def limit(longest = nil)
        late if left <= 0
        [left, longest || @transport.options.attempt_deadline].min
      end

      def self.again?(error)
        return false if error.reason == "CLOSED"
        return true if AGAIN.include?(error.code)

        (error.code == "RESOURCE_EXHAUSTED" && !error.retry_after.nil?) || error.reason == "CONTENTION"
      end

      # Waits until the next attempt, or raises the error of the last one, which asked `host`.
      def failed(error, host)
        raise Errors.closed, cause: nil if @transport.closed?
        raise error, cause: nil unless Attempts.again?(error)

        # That an attempt took too long says less than the error before it.
        @last = error unless @last && error.code == "DEADLINE_EXCEEDED"
        @unknown ||= sent?(error)
        pause = wait_after(error, host)
        @failures += 1
        late if pause >= left
        @transport.pause([pause, LONGEST_DELAY].min)
        raise Errors.closed, cause: nil if @transport.closed?
      end

      private

      def left = @over - @transport.now

      # The next host that works is asked at once.
      def wait_after(error, host)
        if error.reason.empty? && LEFT.include?(error.code)
          @transport.leave(host)
          return 0 if @failures + 1 < @transport.options.hosts.size
        end
        return error.retry_after if error.retry_after&.positive?

        rand * [LONGEST_WAIT, FIRST_WAIT * (2**[@failures, 10].min)].min
      end

      # True if the service may have received and stored what the attempt sent.
      def sent?(error)
        return error.code == "UNKNOWN" unless error.reason.empty?

        error.code != "UNAVAILABLE" || !error.message.match?(NO_CONNECTION)
      end

      def late
        unknown = @write && @unknown
        text = format("no answer within %.3g s", @deadline)
        text += "; it is not known whether the write was stored" if unknown
        text += ": #{@last.message}" if @last
        raise DeadlineExceeded.new(text, code: "DEADLINE_EXCEEDED", outcome_unknown: unknown,
                                         answered: @answered), cause: @last
      end
    end
  end
end
