# frozen_string_literal: true

# Owns the channels, the choice of the host, attempts, their deadlines and the waits between them.
module Aethyr
  module EventStore
    class Transport
      FIRST_WAIT = 0.05
      LONGEST_WAIT = 2.0
      # A further attempt needs this much time. A shorter one would only hide the error of the last.
      SHORTEST_ATTEMPT = 0.02
      ARGUMENTS = { "grpc.initial_reconnect_backoff_ms" => 100, "grpc.min_reconnect_backoff_ms" => 1000,
                    "grpc.max_reconnect_backoff_ms" => 1000, "grpc.keepalive_time_ms" => 30_000,
                    "grpc.keepalive_timeout_ms" => 10_000, "grpc.enable_retries" => 0,
                    "grpc.max_receive_message_length" => 64 * 1024 * 1024,
                    "grpc.use_local_subchannel_pool" => 1 }.freeze
      SERVICES = { store: V1::EventStoreService, commands: World::V1::CommandService,
                   world: World::V1::WorldService }.freeze
      # An answer of the service, by its code, after which the same request may be sent again.
      AGAIN = %w[UNAVAILABLE UNKNOWN CANCELLED DEADLINE_EXCEEDED].freeze
      # Texts of gRPC for an attempt that cannot have reached the service.
      NOT_SENT = /failed to connect|to all backends failing|Connection refused|name resolution/i.freeze

      attr_reader :options

      def initialize(options)
        @options = options
        @lock = Mutex.new
        @current = 0
        @stubs = {}
      end

      # Another transport with the same options and connections of its own, for a subscription.
      def another = Transport.new(options)

      def close
        @lock.synchronize do
          @stubs.each_value { |stubs| stubs[:channel].close }
          @stubs.clear
        end
      end

      def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

      # One call with an answer, and its attempts.
      def unary(service, name, request, deadline: nil, write: false)
        retrying(deadline, write: write) do |limit|
          attempt(service, name, request, limit)
        end
      end

      # Calls the block with the messages of a stream. After a break, `resume` makes the request that
      # continues it, or nil if nothing is left. `progress: true` gives each piece of progress a full deadline
      # again.
      def stream(service, name, request, resume:, deadline: nil, progress: false, attempt: nil)
        moved = answered = false
        retrying(deadline, progress: -> { progress && moved.tap { moved = false } },
                 answered: -> { answered }, longest: attempt) do |limit|
          break if request.nil?

          call = stub(service).public_send(name, request, deadline: Time.now + limit, metadata: metadata,
                                           return_op: true)
          begin
            call.execute.each do |message|
              moved = answered = true
              yield message
            end
          ensure
            call.cancel
          end
        rescue GRPC::BadStatus, GRPC::Core::CallError => e
          request = resume.call
          raise e
        end
        nil
      end

      # A stream without a deadline: the operation, which can be cancelled, and its messages.
      def operation(service, name, request)
        stub(service).public_send(name, request, metadata: metadata, return_op: true)
      end

      def retry?(error)
        return true if AGAIN.include?(error.code)

        (error.code == "RESOURCE_EXHAUSTED" && error.retry_after) || error.reason == "CONTENTION"
      end

      # The wait before the attempt after `tries` failed ones. Goes to the next host if this one cannot be
      # reached.
      def wait_after(error, tries)
        moved = error.reason.empty? && %w[UNAVAILABLE DEADLINE_EXCEEDED].include?(error.code) &&
          next_host(error)
        return 0 if moved && tries < options.hosts.size

        error.retry_after || (rand * [LONGEST_WAIT, FIRST_WAIT * (2**[tries - 1, 10].min)].min)
      end

      # The typed error for one of gRPC; others are raised as they are.
      def failure(error)
        return Errors.from(error) if error.is_a?(GRPC::BadStatus) || error.is_a?(GRPC::Core::CallError)
        raise error unless error.message.match?(/grpc cannot be used before and after forking/i)

        raise AethyrError.new("gRPC was used before this process was forked, and cannot be used in it: " \
                              "make the first call after the fork", code: "FAILED_PRECONDITION"), cause: nil
      end

      private

      def retrying(deadline, write: false, progress: nil, answered: nil, longest: nil)
        length = deadline || options.deadline
        over = now + length
        tries = 0
        unknown = false
        last = nil
        loop do
          left = over - now
          late(last, length, unknown && write, answered) if left <= 0
          return yield([left, longest || options.attempt_deadline].min)
        rescue GRPC::BadStatus, GRPC::Core::CallError, RuntimeError => e
          last = failure(e)
          raise last, cause: nil unless retry?(last)

          if progress&.call
            over = now + length
            tries = 0
          end
          tries += 1
          unknown ||= received?(last)
          pause = wait_after(last, tries)
          late(last, length, unknown && write, answered) if now + pause + SHORTEST_ATTEMPT >= over
          sleep(pause)
        end
      end

      # True if the service may have received and stored what the attempt sent.
      def received?(error)
        return %w[OUTCOME_UNKNOWN INTERNAL].include?(error.reason) unless error.reason.empty?

        !error.message.match?(NOT_SENT)
      end

      def late(last, length, unknown, answered)
        text = format("no answer within %.3g s", length)
        text += "; it is not known whether the write was stored" if unknown
        text += ": #{last.message}" if last
        raise DeadlineExceeded.new(text, code: "DEADLINE_EXCEEDED", outcome_unknown: unknown,
                                         answered: answered&.call || false), cause: last
      end

      def attempt(service, name, request, limit)
        stub(service).public_send(name, request, deadline: Time.now + limit, metadata: metadata)
      end

      def metadata
        token = options.token
        token ? { "authorization" => "Bearer #{token}" } : {}
      end

      # Makes the next host the current one, unless another thread did. True if there is another host.
      def next_host(error)
        return false if options.hosts.size < 2
        return false if error.code == "DEADLINE_EXCEEDED" && connected?

        @lock.synchronize { @current = (@current + 1) % options.hosts.size }
        true
      end

      def connected?
        stubs = @lock.synchronize { @stubs[options.hosts[@current]] }
        stubs && stubs[:channel].connectivity_state == GRPC::Core::ConnectivityStates::READY
      end

      def stub(service)
        @lock.synchronize do
          host = options.hosts[@current]
          (@stubs[host] ||= connect(host)).fetch(service)
        end
      end

      def connect(host)
        arguments = ARGUMENTS.dup
        if options.server_name
          arguments["grpc.ssl_target_name_override"] = options.server_name
          arguments["grpc.default_authority"] = options.server_name
        end
        channel = GRPC::Core::Channel.new(host, arguments, credentials)
        SERVICES.transform_values { |definition| definition::Stub.new(host, nil, channel_override: channel) }
                .merge(channel: channel)
      end

      def credentials
        return :this_channel_is_insecure unless options.tls?

        ca, key, cert = [options.ca, options.key, options.cert].map { |path| path && File.binread(path) }
        GRPC::Core::ChannelCredentials.new(ca, key, cert)
      rescue SystemCallError => e
        InvalidArgument.refuse("ca", "TLS: #{e.message}")
      end
    end
  end
end
