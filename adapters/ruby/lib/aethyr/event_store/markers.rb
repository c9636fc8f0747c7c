# frozen_string_literal: true

# Owns the JSON of Ruby values. What JSON lacks is written with markers: those of Aethyr (`__set__`,
# `__symbol__`, `__gameobject__`, `__proc__`), and `__info__`, `__binary__`, `__time__`, `__float__`,
# `__integer__`, `__class__`, `__pairs__`, `__object__`, `__json__`.
require "set"
require "time"
require "aethyr/event_store/names"

module Aethyr
  module EventStore
    module Markers
      # Deeper values are cut off.
      DEPTH = 40
      # The world of the service allows lists and objects to be nested 24 deep. Deeper values are texts there.
      WORLD_DEPTH = 24
      # JSON numbers of the world are exact below this.
      EXACT = 2**53
      FLOATS = { "NaN" => Float::NAN, "Infinity" => Float::INFINITY, "-Infinity" => -Float::INFINITY }.freeze

      module_function

      # A JSON value. The block is told what could not be kept: a text.
      def dump(value, depth = 0, seen = [], &lost)
        return nil.tap { lost&.call("nested deeper than #{DEPTH}") } if depth > DEPTH

        case value
        when nil, true, false then value
        when Integer then value.abs < EXACT ? value : { "__integer__" => value.to_s }
        when Float then value.abs < EXACT ? value : { "__float__" => value.to_s }
        when String then text(value)
        when Symbol then { "__symbol__" => text(value.to_s) }
        when Time then { "__time__" => value.getutc.iso8601(9) }
        when Module then { "__class__" => value.name.to_s }
        when Proc, Method, UnboundMethod
          lost&.call("a #{value.class} cannot be stored")
          { "__proc__" => "unpersistable" }
        else nested(value, depth, seen, &lost)
        end
      end

      # The same for an attribute of the world.
      def dump_for_world(value, &lost)
        found = dump(value, &lost)
        depth_of(found) > WORLD_DEPTH ? { "__json__" => JSON.generate(found, max_nesting: 0) } : found
      end

      def depth_of(value)
        case value
        when Hash then 1 + (value.values.map { |each| depth_of(each) }.max || 0)
        when Array then 1 + (value.map { |each| depth_of(each) }.max || 0)
        else 0
        end
      end

      def load(value)
        case value
        when Array then value.map { |each| load(each) }
        when Hash
          value.size == 1 ? marked(*value.first) : value.transform_values { |each| load(each) }
        else value
        end
      end

      # The text in UTF-8. Bytes that are no UTF-8 are read as ISO 8859-1, and the block is called.
      def clean(value)
        utf8 = value.encoding == Encoding::BINARY ? value.dup.force_encoding(Encoding::UTF_8) : value
        return utf8.encode(Encoding::UTF_8) if utf8.valid_encoding?

        yield if block_given?
        value.dup.force_encoding(Encoding::ISO_8859_1).encode(Encoding::UTF_8)
      rescue EncodingError
        value.encode(Encoding::UTF_8, invalid: :replace, undef: :replace)
      end

      # A JSON value, with clean texts.
      def clean_all(value)
        case value
        when String then clean(value)
        when Array then value.map { |each| clean_all(each) }
        when Hash then value.to_h { |key, each| [key.is_a?(String) ? clean(key) : key, clean_all(each)] }
        else value
        end
      end

      def text(value)
        utf8 = value.encoding == Encoding::BINARY ? value.dup.force_encoding(Encoding::UTF_8) :
          value.encode("UTF-8")
        return utf8 if utf8.valid_encoding?

        { "__binary__" => [value].pack("m0") }
      rescue EncodingError
        { "__binary__" => [value].pack("m0") }
      end

      def nested(value, depth, seen, &lost)
        if seen.any? { |each| each.equal?(value) }
          lost&.call("a #{value.class} that contains itself")
          return nil
        end
        seen += [value]
        deeper = ->(each) { dump(each, depth + 1, seen, &lost) }
        case value
        when Set then { "__set__" => value.map(&deeper) }
        when Array then value.map(&deeper)
        when Hash then hash(value, deeper)
        else object(value, deeper, &lost)
        end
      end

      # JSON has texts as keys only. A Hash with other keys, or one that looks like a marker, is a list of
      # pairs.
      def hash(value, deeper)
        pairs = value.map { |key, each| [deeper.call(key), deeper.call(each)] }
        plain = pairs.all? { |key, _| key.is_a?(String) } &&
          !(pairs.size == 1 && pairs[0][0].match?(/\A__\w+__\z/))
        plain ? pairs.to_h : { "__pairs__" => pairs }
      end

      def object(value, deeper, &lost)
        return { "__gameobject__" => value.goid } if game_object?(value)

        if defined?(::OpenStruct) && value.is_a?(::OpenStruct)
          return { "__info__" => value.to_h.to_h { |key, each| [clean(key.to_s), deeper.call(each)] } }
        end
        return deeper.call(value.as_json) if value.respond_to?(:as_json) && value.class.respond_to?(:types)

        fields = value.instance_variables.to_h do |name|
          [clean(name.to_s).delete_prefix("@"), deeper.call(value.instance_variable_get(name))]
        end
        return { "__object__" => fields.merge("class" => value.class.name) } if value.class.name &&
          fields.any?

        lost&.call("a #{value.class} cannot be stored")
        text(value.to_s)
      end

      def game_object?(value)
        defined?(Aethyr::Core::Objects::GameObject) && value.is_a?(Aethyr::Core::Objects::GameObject)
      end

      # A value that looks like one with a marker and is none stays what it is: other programs may write it.
      def marked(key, value)
        unmarked(key, value)
      rescue ArgumentError, IndexError, NoMethodError, TypeError, JSON::ParserError
        { key => value }
      end

      def unmarked(key, value)
        case key
        when "__set__" then Set.new(value.map { |each| load(each) })
        when "__symbol__" then load(value).to_sym
        when "__gameobject__" then found(value)
        when "__proc__" then nil
        when "__binary__" then value.unpack1("m0")
        when "__time__" then Time.iso8601(value)
        when "__float__" then FLOATS[value] || Float(value)
        when "__integer__" then Integer(value)
        when "__class__" then known_class(value) || value
        when "__json__" then load(JSON.parse(value, max_nesting: 0))
        when "__pairs__" then value.to_h { |pair| [load(pair.fetch(0)), load(pair.fetch(1))] }
        when "__info__" then info(value.transform_values { |each| load(each) })
        when "__object__" then rebuilt(value)
        else { key => load(value) }
        end
      end

      # Set in a thread that wants ids of objects: a snapshot cannot have the objects themselves.
      IDS = :aethyr_event_store_ids

      # The object itself while the game runs, otherwise its id.
      def found(goid)
        return goid if Thread.current[IDS]

        ($manager.get_object(goid) if $manager.respond_to?(:get_object)) || goid
      end

      def info(fields)
        return ::Info.new(fields) if defined?(::Info)

        require "ostruct"
        OpenStruct.new(fields)
      end

      # An object of a class that the game knows; otherwise its fields. Only classes that are loaded are used,
      # and no method of them is called.
      def rebuilt(fields)
        values = fields.reject { |key, _| key == "class" }.transform_values { |each| load(each) }
        type = known_class(fields["class"])
        return values if type.nil?

        object = type.allocate
        values.each do |name, each|
          object.instance_variable_set("@#{name}", each) if name.match?(/\A[a-z_]\w*\z/i)
        end
        object
      rescue TypeError
        values
      end

      def known_class(name)
        Names.class_of(name) if name.to_s.start_with?("Aethyr::")
      end
    end
  end
end
