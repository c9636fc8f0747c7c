# frozen_string_literal: true

# Owns a local service for the tests of a game: its start on a free port with a storage of its own, and its
# end.
require "fileutils"
require "socket"
require "tmpdir"
require "grpc/health/v1/health_services_pb"
require "aethyr/event_store"

module Aethyr
  module EventStore
    # `TestService.run { |service| Client.new(service.url) … }`, or `start` and `stop`. The program is
    # AETHYR_EVENT_STORE, or `aethyr-event-store` in PATH.
    class TestService
      attr_reader :folder, :port, :pid

      def self.run(**options)
        service = new(**options)
        service.start
        yield service
      ensure
        service&.close
      end

      # `environment`: more settings, for example { "AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLD" => "5" }.
      # `ca`: PEM file, if the settings switch TLS on.
      def initialize(environment: {}, program: nil, ca: nil)
        @ca = ca
        @program = program || self.class.program
        @environment = environment
        @folder = Dir.mktmpdir("aethyr-event-store")
        @port = TCPServer.open("127.0.0.1", 0) { |server| server.addr[1] }
        Dir.mkdir(File.join(folder, "conf"))
        File.write(File.join(folder, "conf", "server.yml"), <<~YAML)
          server: { listen: "#{address}", shutdown_grace: 2.0 }
          event_sourcing: { enabled: true }
          limits: { disk_free_min: 0 }
        YAML
      end

      def self.program
        named = ENV["AETHYR_EVENT_STORE"].to_s
        found = named.empty? ? in_path : named
        return found if found && File.executable?(found)

        raise "there is no program aethyr-event-store: build it (cargo build --release) or download it, " \
              "and put it into PATH, or its path into AETHYR_EVENT_STORE"
      end

      def self.in_path
        ENV.fetch("PATH", "").split(File::PATH_SEPARATOR).map { |dir| File.join(dir, "aethyr-event-store") }
           .find { |file| File.executable?(file) }
      end

      def address = "127.0.0.1:#{port}"
      def url = "aethyr://#{address}#{"?ca=#{@ca}" if @ca}"

      # Starts the service, or starts it again, and waits until it is healthy.
      def start(patience: 30)
        clean = ENV.keys.grep(/\A(AETHYR|IMMUDB)_/).to_h { |name| [name, nil] }
        @pid = Process.spawn(clean.merge(@environment), @program, "serve", chdir: folder, in: File::NULL,
                                                                           %i[out err] => [log, "a"])
        over = Process.clock_gettime(Process::CLOCK_MONOTONIC) + patience
        until healthy?
          if Process.wait(@pid, Process::WNOHANG)
            @pid = nil
            raise "the service does not start:\n#{File.read(log)}"
          end
          if Process.clock_gettime(Process::CLOCK_MONOTONIC) > over
            raise "the service is not healthy after #{patience} s"
          end

          sleep 0.05
        end
        self
      end

      def stop(signal = "TERM")
        return unless @pid

        Process.kill(signal, @pid)
        Process.wait(@pid)
        @pid = nil
      end

      # Stops the service and removes its storage.
      def close
        stop
        FileUtils.rm_rf(folder)
      end

      private

      def log = File.join(folder, "service.log")

      def healthy?
        TCPSocket.open("127.0.0.1", port).close
        tls = @ca ? GRPC::Core::ChannelCredentials.new(File.read(@ca)) : :this_channel_is_insecure
        stub = Grpc::Health::V1::Health::Stub.new(address, tls,
                                                  channel_args: { "grpc.use_local_subchannel_pool" => 1 })
        stub.check(Grpc::Health::V1::HealthCheckRequest.new, deadline: Time.now + 1).status == :SERVING
      rescue SystemCallError, GRPC::BadStatus
        false
      end
    end
  end
end
