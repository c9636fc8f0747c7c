# frozen_string_literal: true

# Owns the typed errors of the client, and how they follow from a gRPC status. No gRPC error leaves the
# client.
module Aethyr
  module EventStore
    # Base of all errors of the client. A reason that has no class of its own is an AethyrError.
    class AethyrError < StandardError
      # Name of the gRPC code, for example "ABORTED"; "" if no answer led to the error.
      attr_reader :code
      # `reason`, `domain` and `metadata` of google.rpc.ErrorInfo; empty if the error has none.
      attr_reader :reason, :domain, :metadata
      # Seconds of google.rpc.RetryInfo, or nil.
      attr_reader :retry_after

      def initialize(message, code: "", reason: "", domain: "", metadata: {}, retry_after: nil,
                     violations: [])
        super(message)
        @code = code
        @reason = reason
        @domain = domain
        @metadata = metadata
        @retry_after = retry_after
        @violations = violations
      end

      private

      def number(key)
        metadata[key] && Integer(metadata[key], exception: false)
      end
    end

    # Another append came first: load again, decide again.
    class WrongExpectedSequence < AethyrError
      def aggregate_id = metadata["aggregate_id"]
      def expected = number("expected")
      def actual = number("actual")
    end

    # The event id belongs to an event with other content, or of another append.
    class EventIdReused < AethyrError
      def event_id = metadata["event_id"]
    end

    # There is no such object, snapshot, event or checkpoint.
    class NotFound < AethyrError; end

    # Fields of the request are not valid.
    class InvalidArgument < AethyrError
      Violation = Struct.new(:field, :description)

      attr_reader :violations

      # What the client refuses by itself.
      def self.refuse(field, message)
        raise new(message, code: "INVALID_ARGUMENT", violations: [Violation.new(field.to_s, message)])
      end
    end

    # The caller is not known.
    class Unauthenticated < AethyrError; end

    # The caller lacks a right.
    class NotAllowed < AethyrError
      def right = metadata["right"]
    end

    # The checkpoint of a subscription belongs to another history.
    class HistoryChanged < AethyrError; end

    # A command or an event breaks a rule of the world.
    class WorldRule < AethyrError
      def rule = metadata["rule"] || reason
      def aggregate_id = metadata["aggregate_id"] || metadata["id"]
    end

    # Another player has the name (`world.player_names.unique`): choose another name.
    class NameTaken < AethyrError
      # The player that was to get the name.
      def id = metadata["id"]
      def name = metadata["name"]
    end

    # Stored data is damaged.
    class Damaged < AethyrError; end

    # A limit is reached.
    class ResourceExhausted < AethyrError
      def limit = metadata["limit"]
      def max = number("max")
    end

    # The service cannot be reached, or refuses for now.
    class Unavailable < AethyrError; end

    # The deadline of a call with all its attempts is over. `cause` is the error of the last attempt.
    class DeadlineExceeded < AethyrError
      # True if the call was a write that may have been stored.
      attr_reader :outcome_unknown
      # True if a part of a long answer had come.
      attr_reader :answered

      def initialize(message, outcome_unknown: false, answered: false, **details)
        super(message, **details)
        @outcome_unknown = outcome_unknown
        @answered = answered
      end
    end

    # It is not known whether a write was stored. The same ids tell the outcome.
    class OutcomeUnknown < AethyrError; end

    # Makes typed errors of gRPC errors.
    module Errors
      NAMES = GRPC::Core::StatusCodes.constants.to_h do |name|
        [GRPC::Core::StatusCodes.const_get(name), name.to_s]
      end.freeze
      BY_REASON = { "WRONG_EXPECTED_SEQUENCE" => WrongExpectedSequence, "EVENT_ID_REUSED" => EventIdReused,
                    "HISTORY_CHANGED" => HistoryChanged, "OUTCOME_UNKNOWN" => OutcomeUnknown,
                    "WORLD_RULE" => WorldRule, "NAME_TAKEN" => NameTaken }.freeze
      BY_CODE = { "NOT_FOUND" => NotFound, "INVALID_ARGUMENT" => InvalidArgument,
                  "UNAUTHENTICATED" => Unauthenticated,
                  "PERMISSION_DENIED" => NotAllowed, "DATA_LOSS" => Damaged,
                  "RESOURCE_EXHAUSTED" => ResourceExhausted,
                  "UNAVAILABLE" => Unavailable, "DEADLINE_EXCEEDED" => DeadlineExceeded }.freeze
      DETAILS = [Google::Rpc::ErrorInfo, Google::Rpc::RetryInfo, Google::Rpc::BadRequest].freeze

      module_function

      # What calls fail with after `close`.
      def closed = AethyrError.new("the client is closed", code: "CANCELLED", reason: "CLOSED")

      def from(error)
        return error if error.is_a?(AethyrError)
        unless error.is_a?(GRPC::BadStatus)
          return Unavailable.new("#{error.class}: #{error.message}", code: "UNAVAILABLE")
        end

        code = NAMES[error.code] || "UNKNOWN"
        fields = details(error)
        type(code, fields[:reason], fields[:domain]).new(error.details.to_s, code: code, **fields)
      end

      def type(code, reason, domain)
        return BY_REASON[reason] if BY_REASON.key?(reason)
        return WorldRule if code == "FAILED_PRECONDITION" && domain == "aethyr.world"

        BY_CODE.fetch(code, AethyrError)
      end

      def details(error)
        found = { reason: "", domain: "", metadata: {} }
        unpack(error.metadata && error.metadata["grpc-status-details-bin"]).each do |detail|
          case detail
          when Google::Rpc::ErrorInfo
            found.update(reason: detail.reason, domain: detail.domain, metadata: detail.metadata.to_h)
          when Google::Rpc::RetryInfo
            delay = detail.retry_delay
            found[:retry_after] = [delay.seconds + (delay.nanos / 1e9), 0.0].max if delay
          when Google::Rpc::BadRequest
            found[:violations] = detail.field_violations.map do |violation|
              InvalidArgument::Violation.new(violation.field, violation.description)
            end
          end
        end
        found
      end

      def unpack(bytes)
        return [] if bytes.nil?

        Google::Rpc::Status.decode(bytes).details.filter_map do |any|
          type = DETAILS.find { |known| any.is(known) }
          any.unpack(type) if type
        end
      rescue Google::Protobuf::ParseError
        []
      end
    end
  end
end
