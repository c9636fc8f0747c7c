# frozen_string_literal: true

# Owns the channels, the choice of the host and single attempts. When a call is sent again is in attempts.rb.
module Aethyr
  module EventStore
    class Transport
      ARGUMENTS = { "grpc.initial_reconnect_backoff_ms" => 100, "grpc.max_reconnect_backoff_ms" => 1000,
                    "grpc.keepalive_time_ms" => 30_000, "grpc.keepalive_timeout_ms" => 10_000,
                    # An idle subscription sends nothing, and has to notice that its connection is dead.
                    "grpc.http2.max_pings_without_data" => 0, "grpc.enable_retries" => 0,
                    "grpc.max_receive_message_length" => 64 * 1024 * 1024,
                    "grpc.use_local_subchannel_pool" => 1 }.freeze
      SERVICES = { store: V1::EventStoreService, commands: World::V1::CommandService,
                   world: World::V1::WorldService }.freeze
      # What an attempt fails with. gRPC has RuntimeErrors for a fork and for a channel that was closed.
      FAILURES = [GRPC::BadStatus, GRPC::Core::CallError, RuntimeError].freeze

      attr_reader :options
      # Index of the host that calls go to, while it works.
      attr_reader :host

      def initialize(options)
        @options = options
        @lock = Mutex.new
        @host = 0
        @stubs = {}
        @calls = Calls.new
      end

      # Another transport with the same options and connections of its own, for a subscription.
      def another = Transport.new(options)

      # Ends what waits and what is in flight. Later calls fail.
      def close
        @calls.close
        stubs = @lock.synchronize { @stubs.values.tap { @stubs = {} } }
        stubs.each { |each| each[:channel].close }
      rescue ThreadError
        # A signal handler can take no lock.
        Thread.new { close }
      end

      def closed? = @calls.closed?
      def now = @calls.now
      def pause(seconds) = @calls.pause(seconds)

      # The host does not work: goes on with the next one, unless that happened already.
      def leave(host)
        @lock.synchronize { @host = (host + 1) % options.hosts.size if @host == host }
      end

      # One call with an answer, and its attempts.
      def unary(service, name, request, deadline: nil, write: false)
        attempts = Attempts.new(self, deadline || options.deadline, write: write)
        begin
          host = self.host
          call = operation(service, name, request, deadline: Time.now + attempts.limit)
          @calls.during(call) { call.execute }
        rescue *FAILURES => e
          attempts.failed(failure(e), host)
          retry
        end
      end

      # Calls the block with the messages of a stream. After a break, `resume` makes the request that
      # continues it, or nil if nothing is left. `progress: true` gives each message a full deadline again;
      # the time that the block takes counts for none. `attempt`: seconds for a message at most.
      def stream(service, name, request, resume:, deadline: nil, progress: false, attempt: nil)
        attempts = Attempts.new(self, deadline || options.deadline)
        until request.nil?
          host = self.host
          begin
            messages(service, name, request, -> { attempts.limit(attempt) }) do |message|
              attempts.answered
              yield message
              attempts.renew if progress
            end
            return nil
          rescue *FAILURES => e
            error = failure(e)
            request = resume.call
            attempts.failed(error, host) unless request.nil? && Attempts.again?(error)
          end
        end
      end

      # One attempt of a stream. `patience` says how many seconds the next message may take, or nil.
      def messages(service, name, request, patience)
        call = operation(service, name, request)
        @calls.during(call) do |flight|
          @calls.limit(flight, patience.call)
          call.execute.each do |message|
            @calls.limit(flight, nil)
            yield message
            @calls.limit(flight, patience.call)
          end
        end
      end

      # The typed error for one of gRPC; others are raised as they are.
      def failure(error)
        if error.is_a?(GRPC::BadStatus) || error.is_a?(GRPC::Core::CallError)
          return closed? ? Errors.closed : Errors.from(error)
        end
        return Errors.closed if closed? && error.message.match?(/closed/i)
        raise error unless error.message.match?(/grpc cannot be used before and after forking/i)

        raise AethyrError.new("gRPC was used before this process was forked, and cannot be used in it: " \
                              "make the first call after the fork", code: "FAILED_PRECONDITION"), cause: nil
      end

      private

      # The token is read for each attempt.
      def operation(service, name, request, deadline: nil)
        token = options.token
        metadata = token ? { "authorization" => "Bearer #{token}" } : {}
        stub(service).public_send(name, request, deadline: deadline, metadata: metadata, return_op: true)
      end

      def stub(service)
        @lock.synchronize do
          raise Errors.closed if closed?

          host = options.hosts[@host]
          (@stubs[host] ||= connect(host)).fetch(service)
        end
      end

      def connect(host)
        # gRPC's name for the time that a connection may take.
        patience = [(options.attempt_deadline * 1000).to_i + 1, (2**31) - 1].min
        arguments = ARGUMENTS.merge("grpc.min_reconnect_backoff_ms" => patience)
        arguments["grpc.enable_http_proxy"] = 0 if options.loopback?(host)
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

        GRPC::Core::ChannelCredentials.new(*%i[ca key cert].map { |name| options.content(name) })
      end
    end
  end
end
