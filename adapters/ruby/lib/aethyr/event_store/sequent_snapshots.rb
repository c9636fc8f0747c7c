# frozen_string_literal: true

# Owns the snapshot methods of Sequent 8.2 and 9. Sequent gives a snapshot the number of the event that comes
# next; the service wants that of the last event that is in it.
require "openssl"

module Aethyr
  module EventStore
    module SequentSnapshots
      # Schema versions in the store: snapshots of Sequent, and events that Aethyr saves as snapshots.
      SNAPSHOTS = 1
      EVENT_SNAPSHOTS = 2
      # Set in a thread whose calls may take long.
      PATIENT = :aethyr_event_store_patient

      def store_snapshots(snapshots)
        snapshots.each do |each|
          data = { "class" => each.class.name, "data" => each.data }
          data["snapshot_version"] = each.snapshot_version if each.respond_to?(:snapshot_version)
          save(each.aggregate_id, each.sequence_number - 1, data, SNAPSHOTS)
        end
      end

      def load_latest_snapshot(id)
        found = read { |left| client.load_snapshot(id, deadline: left) }
        return if found.nil? || !signed?(found)

        count(:snapshots_loaded)
        snapshot_event(found)
      end

      # The service says which aggregates have more events since their snapshot than its configuration wants.
      def aggregates_that_need_snapshots(last_aggregate_id, limit = 10)
        client.list_aggregates(snapshot_due: true).lazy.map(&:aggregate_id)
              .select { |id| last_aggregate_id.nil? || id > last_aggregate_id }.first(limit)
      end

      # Sequent 8 wants ids, Sequent 9 also type and version.
      def select_aggregates_for_snapshotting(limit:, **)
        due = client.list_aggregates(snapshot_due: true).lazy.first(limit)
        return due.map(&:aggregate_id) unless defined?(::Sequent::Core::AggregateSnapshotNeeded)

        due.map do |each|
          type = EventCodec::AGGREGATES.long(each.aggregate_type)
          ::Sequent::Core::AggregateSnapshotNeeded.new(aggregate_id: each.aggregate_id, aggregate_type: type,
                                                       snapshot_version: version_of(type) || 1)
        end
      end

      # Nothing to do: the service keeps the newest snapshot only, and knows itself which aggregates are due.
      def delete_snapshots_before(_id, _sequence_number) = nil
      def mark_aggregate_for_snapshotting(_id, **) = nil
      def register_snapshot_versions! = nil
      def delete_unknown_snapshot_versions = nil

      %i[delete_all_snapshots clear_aggregate_for_snapshotting
         clear_aggregates_for_snapshotting_with_last_event_before].each do |name|
        define_method(name) do |*, **|
          raise NotSupported, "#{name}: the service does not delete snapshots; it replaces them. Give the " \
                              "class another snapshot version, and its snapshots are left aside"
        end
      end

      private

      def save(id, sequence_number, data, schema_version)
        data = data.merge("signature" => signature(id, sequence_number, data)) if @snapshot_key
        call do |left|
          client.save_snapshot(id, sequence_number, data, schema_version: schema_version, deadline: left)
        end
        count(:snapshots_stored)
      rescue AethyrError
        count(:store_failures)
        raise
      end

      # Sequent reads a snapshot with Marshal, which can run code: with a key, only one that was signed.
      def signed?(state)
        return true if @snapshot_key.nil?

        data = state.data.is_a?(Hash) ? state.data : {}
        OpenSSL.secure_compare(data["signature"].to_s,
                               signature(state.aggregate_id, state.sequence_number, data))
      end

      def signature(id, sequence_number, data)
        text = JSON.generate([id, sequence_number, data.except("signature").sort])
        OpenSSL::HMAC.hexdigest("SHA256", @snapshot_key, text)
      end

      # The same aggregate without its snapshot, if that is of a version that the class does not read.
      def usable(loaded)
        return loaded if loaded.snapshot.nil?

        wanted = version_of(stream(loaded).aggregate_type)
        found = loaded.snapshot.data["snapshot_version"]
        if signed?(loaded.snapshot) && (wanted.nil? || found.nil? || wanted == found)
          count(:snapshots_loaded)
          return loaded
        end
        read { |left| client.load(loaded.aggregate_id, deadline: left) }
      end

      def version_of(type)
        found = Names.class_of(type)
        found.snapshot_version if found.respond_to?(:snapshot_version)
      end

      def snapshot_event(state)
        data = state.data
        if state.schema_version == EVENT_SNAPSHOTS
          return EventCodec.build(Object.const_get(data["class"]), data["event"],
                                  aggregate_id: state.aggregate_id, sequence_number: state.sequence_number)
        end

        fields = { aggregate_id: state.aggregate_id, sequence_number: state.sequence_number + 1,
                   data: data["data"] }
        fields[:snapshot_version] = data["snapshot_version"] if data["snapshot_version"]
        ::Sequent::Core::SnapshotEvent.new(**fields)
      end
    end
  end
end
