# frozen_string_literal: true

# Owns a service in this process that does what a test says.
require_relative "service"

module Fake
  ES = Aethyr::EventStore
  V1 = ES::V1

  # Calls a function of the test with the number of the call from 0 on, the request and its metadata.
  class Service < V1::EventStoreService::Service
    attr_reader :calls

    def initialize(methods)
      super()
      @methods = methods
      @calls = []
      @lock = Mutex.new
    end

    %i[append_events stats].each do |name|
      define_method(name) { |request, call| answer(name, request, call.metadata) }
    end

    # The answer of a stream is a function that gets a Yielder.
    %i[load_events load_many_events read_all subscribe].each do |name|
      define_method(name) do |request, call|
        metadata = call.metadata
        Enumerator.new { |messages| answer(name, request, metadata, messages) }
      end
    end

    private

    def answer(name, request, metadata, *messages)
      number = @lock.synchronize { (@calls << name).count(name) - 1 }
      @methods.fetch(name).call(number, request, *(messages.empty? ? [metadata] : messages), metadata)
    end
  end

  # The service, and its host with the port.
  def serve(**methods)
    fake = Service.new(methods)
    server = GRPC::RpcServer.new(pool_size: 8, poll_period: 0.1)
    port = server.add_http2_port("127.0.0.1:0", :this_port_is_insecure)
    server.handle(fake)
    thread = Thread.new { server.run }
    server.wait_till_running
    (@servers ||= []) << [server, thread]
    [fake, "127.0.0.1:#{port}"]
  end

  # For a function that does not answer before the test ends.
  def never(*) = ended.pop
  def ended = @ended ||= Queue.new

  def teardown
    ended.close
    @servers.to_a.each do |server, thread|
      server.stop
      thread.join
    end
    super
  end

  def recorded(*positions)
    positions.map { |n| V1::RecordedEvent.new(position: n, sequence_number: n, chain_hash: [n].pack("C")) }
  end

  def page(last, *positions) = V1::ReadAllResponse.new(events: recorded(*positions), last_position: last)

  def batch(*positions)
    V1::SubscribeResponse.new(events: V1::EventBatch.new(events: recorded(*positions)))
  end

  def caught_up
    V1::SubscribeResponse.new(caught_up: V1::CaughtUp.new(checkpoint: V1::Checkpoint.new(position: 1)))
  end
end
