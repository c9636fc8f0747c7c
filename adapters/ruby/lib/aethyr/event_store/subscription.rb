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
        @transport = transport.another
        @name = name
        @store = store
        @filter = filter
        @closed = false
      end

      def each
        return enum_for(:each) unless block_given?

        @place = @store.load(@name)
        tries = 0
        until @closed
          begin
            messages { |message| tries = 0 if handle(message) { |event| yield event } }
          rescue GRPC::BadStatus, GRPC::Core::CallError, RuntimeError => e
            error = @transport.failure(e)
            break if @closed

            raise error, cause: nil unless @transport.retry?(error)

            tries += 1
            sleep(@transport.wait_after(error, tries))
          end
        end
        self
      ensure
        @operation&.cancel
        @transport.close
      end

      # Ends the loop, also from another thread.
      def close
        @closed = true
        @operation&.cancel
      end

      private

      def messages(&block)
        request = V1::SubscribeRequest.new(after: @place, filter: @filter)
        @operation = @transport.operation(:store, :subscribe, request)
        @operation.cancel if @closed
        @operation.execute.each(&block)
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
        true
      end

      def save(checkpoint)
        return if checkpoint.nil? || (@place && checkpoint.position <= @place.position)

        @store.save(@name, checkpoint)
        @place = checkpoint
      end
    end
  end
end
