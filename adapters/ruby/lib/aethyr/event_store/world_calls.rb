# frozen_string_literal: true

# Owns the commands and the questions of the game world.
module Aethyr
  module EventStore
    module WorldCalls
      COMMANDS = World::V1::Command.descriptor.lookup_oneof("command").map(&:name).freeze
      ENVELOPE = %i[command_id actor correlation_id expected_sequence expected_sequences].freeze
      VALUES = %w[google.protobuf.Value].freeze

      # Executes commands, all or none: `execute([{ create_room: { id: "r", name: "Hall" } }], actor:
      # "builder")`. A command without a `command_id` gets one, in the Hash itself, so that the same commands
      # can be sent again.
      def execute(commands, actor: nil, expected_sequences: {}, correlation_id: nil, deadline: nil)
        send_commands(command_messages(commands, actor, correlation_id), expected_sequences, deadline)
      end

      # Executes more commands than one call can have, in calls of at most `most` commands, as `append_many`
      # appends events. The events of all of them have this correlation id.
      def execute_many(commands, correlation_id:, actor: nil, most: 100, deadline: nil)
        Codec.check_most(most)
        messages = command_messages(commands, actor, correlation_id)
        messages.each_slice(most).map { |slice| send_commands(slice, nil, deadline) }
      end

      def get_game_object(id, as_of: nil, deadline: nil)
        ask(:get_game_object, World::V1::GetGameObjectRequest, deadline, id: id,
            as_of: moment(as_of)).game_object
      end

      def get_player(id, as_of: nil, deadline: nil)
        ask(:get_player, World::V1::GetPlayerRequest, deadline, id: id, as_of: moment(as_of)).player
      end

      def get_room(id, as_of: nil, deadline: nil)
        ask(:get_room, World::V1::GetRoomRequest, deadline, id: id, as_of: moment(as_of)).room
      end

      def find_player(name, id_prefixes: [], deadline: nil)
        ask(:find_player, World::V1::FindPlayerRequest, deadline, name: name,
            id_prefixes: id_prefixes).players.to_a
      end

      # Objects over all pages; fields as in ListGameObjectsRequest. Without a block, an Enumerator.
      def list_game_objects(deadline: nil, **fields, &block)
        fields[:attribute_value] = Codec.json_value(fields[:attribute_value]) if fields.key?(:attribute_value)
        pages(:world, :list_game_objects, World::V1::ListGameObjectsRequest, fields, :game_objects, deadline,
              &block)
      end

      def list_contents(container_id, recursive: false, page_size: 0, deadline: nil, &block)
        request = { container_id: container_id, recursive: recursive, page_size: page_size }
        pages(:world, :list_contents, World::V1::ListContentsRequest, request, :game_objects, deadline,
              &block)
      end

      # The entries of the history of an object, each with its changes.
      def get_history(id, from_sequence: 0, to_sequence: 0, deadline: nil)
        entries = []
        request = lambda do
          from = entries.empty? ? from_sequence : entries.last.sequence_number + 1
          next if to_sequence.positive? && from > to_sequence

          World::V1::GetHistoryRequest.new(id: id, from_sequence: from, to_sequence: to_sequence)
        end
        transport.stream(:world, :get_history, request.call, resume: request, deadline: deadline) do |part|
          entries.concat(part.entries.to_a)
        end
        entries
      end

      # Rebuilds the read models: the report. The block gets the progress.
      def rebuild_world_state(repair: [], actor: "", deadline: 3600)
        report = nil
        request = World::V1::RebuildWorldStateRequest.new(repair: repair, actor: actor)
        transport.stream(:world, :rebuild_world_state, request, resume: -> { request }, deadline: deadline,
                                                                attempt: deadline) do |part|
          report = part.report || report
          yield part.progress if block_given? && part.progress
        end
        report
      end

      private

      def command_messages(commands, actor, correlation_id)
        commands = [commands].flatten.map { |command| Codec.identify(command, :command_id) }
        commands.map { |command| command_message(command, actor, correlation_id) }
      end

      def send_commands(messages, expected_sequences, deadline)
        request = World::V1::ExecuteCommandsRequest.new(commands: messages,
                                                        expected_sequences: expected_sequences || {})
        transport.unary(:commands, :execute_commands, request, deadline: deadline, write: true)
      end

      def ask(name, type, deadline, **fields)
        transport.unary(:world, name, type.new(**fields), deadline: deadline)
      end

      def moment(value)
        case value
        when nil, World::V1::Moment then value
        when Hash then World::V1::Moment.new(**value)
        when Integer then World::V1::Moment.new(sequence_number: value)
        else World::V1::Moment.new(time: Codec.timestamp(value))
        end
      end

      def command_message(command, actor, correlation_id)
        names = command.keys.map(&:to_s) - ENVELOPE.map(&:to_s)
        unless names.size == 1 && COMMANDS.include?(names.first)
          InvalidArgument.refuse("commands", "a command has one of: #{COMMANDS.join(", ")}; not " \
                                             "#{names.join(", ")}")
        end

        name = names.first
        fields = ENVELOPE.to_h { |key| [key, command[key] || command[key.to_s]] }.compact
        fields[:actor] ||= actor.to_s
        fields[:correlation_id] ||= correlation_id.to_s
        type = World::V1::Command.descriptor.lookup(name).subtype
        fields[name.to_sym] = type.msgclass.new(**command_fields(type, command[name.to_sym] || command[name]))
        World::V1::Command.new(**fields)
      end

      # Attributes, values and positions are any JSON values.
      def command_fields(type, fields)
        fields.to_h do |key, value|
          field = type.lookup(key.to_s)
          value = Codec.json_value(value) if field&.type == :message && VALUES.include?(field.subtype.name)
          value = value.to_h { |name, each| [name.to_s, Codec.json_value(each)] } if key.to_s == "attributes"
          value = value.to_sym if field&.type == :enum && value.is_a?(String)
          [key.to_sym, value]
        end
      end
    end
  end
end
