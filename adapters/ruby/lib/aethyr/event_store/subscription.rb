# frozen_string_literal: true

# Owns subscriptions: a loop over the events of the total order that goes on by itself after every break, and
# the stores of its checkpoint.
module Aethyr
  module EventStore
    # Checkpoints in memory, by name: for tests, and for what is derived anew at each start.
    class MemoryCheckpoints
      def initialize
        @lock = Mutex.new
        @saved = {}
      end

      def load(name) = @lock.synchronize { @saved[name] }
      def save(name, checkpoint) = @lock.synchronize { @saved[name] = checkpoint }
    end

    # Checkpoints in a folder, one file for each name. A file is written beside, synced and renamed.
    class FileCheckpoints
      def initialize(folder)
        @folder = folder
      end

      def load(name)
        position, hash = File.read(path(name)).split
        V1::Checkpoint.new(position: Integer(position), chain_hash: [hash.to_s].pack("H*"))
      rescue Errno::ENOENT
        nil
      end

      def save(name, checkpoint)
        beside = "#{path(name)}.new"
        File.open(beside, "w") do |file|
          file.puts("#{checkpoint.position} #{checkpoint.chain_hash.unpack1("H*")}")
          file.fsync
        end
        File.rename(beside, path(name))
        File.open(@folder, &:fsync)
      end

      private

      def path(name) = File.join(@folder,
                                 "#{name.to_s.gsub(/[^A-Za-z0-9_.-]/) { |c| "%%%02x" % c.ord }}.checkpoint")
    end

    # Begins after the checkpoint of `name`, and saves it after each event that was handled. Within one
    # subscription no event comes twice and none is left out. It ends by `close` from any thread, by `break`,
    # with HistoryChanged, and with other errors that a retry does not heal.
    class Subscription
      include Enumerable

      def initialize(transport, name, store, filter)
        @parent = transport
        @name = name
        @store = store
        @filter = filter
        @closed = false
      end

      def each(&block)
        return enum_for(:each) unless block

        @transport = @parent.another
        @place = @store.load(@name)
        follow(&block) unless @closed
        self
      rescue AethyrError => e
        raise unless @closed && e.reason == "CLOSED"

        self
      ensure
        @transport&.close
      end

      # Ends the loop, also from another thread.
      def close
        @closed = true
        @transport&.close
      end

      private

      def follow(&block)
        attempts = Attempts.new(@transport, Float::INFINITY)
        until @closed
          host = @transport.host
          live = false
          error = broken do |message|
            live = true
            attempts.renew
            handle(message, &block)
          end
          break if @closed

          # A stream ends when its token is replaced, and goes on with the new one.
          again = live && error.is_a?(Unauthenticated)
          again ? @transport.pause(Attempts::FIRST_WAIT) : attempts.failed(error, host)
        end
      end

      # The error that one stream has ended with.
      def broken(&block)
        # Once it has caught up, silence is normal. HTTP/2 pings find a dead connection.
        patience = @transport.options.attempt_deadline
        request = V1::SubscribeRequest.new(after: @place, filter: @filter)
        @transport.messages(:store, :subscribe, request, -> { patience }) do |message|
          patience = nil if message.content == :caught_up
          block.call(message)
        end
        Unavailable.new("the service ended the stream", code: "UNAVAILABLE")
      rescue *Transport::FAILURES => e
        @transport.failure(e)
      end

      def handle(message)
        case message.content
        when :events
          message.events.events.each do |record|
            break if @closed
            next if @place && record.position <= @place.position

            yield Codec.event(record)
            save(V1::Checkpoint.new(position: record.position, chain_hash: record.chain_hash))
          end
        when :checkpoint then save(message.checkpoint)
        when :caught_up then save(message.caught_up.checkpoint)
        end
      end

      def save(checkpoint)
        return if checkpoint.nil? || (@place && checkpoint.position <= @place.position)

        @store.save(@name, checkpoint)
        @place = checkpoint
      end
    end
  end
end
