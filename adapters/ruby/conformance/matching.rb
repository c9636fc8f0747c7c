# frozen_string_literal: true

# Owns placeholders, the plain form of answers, and the comparison with what a case wants.
module Conformance
  module Matching
    BESIDE = %w[answer error as client deadline_ms repeat background].freeze
    PLACEHOLDER = /\$\{([^}]*)\}/.freeze
    DEFAULTS = [nil, 0, "", false, [], {}].freeze

    private

    # ---- placeholders

    def filled(value, number)
      case value
      when Hash then value.to_h { |key, each| [filled(key, number).to_s, filled(each, number)] }
      when Array then value.map { |each| filled(each, number) }
      when String
        whole = /\A#{PLACEHOLDER}\z/.match(value)
        return lookup(whole[1], number) if whole

        value.gsub(PLACEHOLDER) { lookup(Regexp.last_match(1), number).to_s }
      else value
      end
    end

    def lookup(path, number)
      return number if path == "i"
      return path[0] * path[2..].to_i if path.match?(/\A.:\d+\z/)

      first, *rest = path.split(".")
      found = @lock.synchronize { @answers.fetch(first) { raise StepFailed, "there is no answer #{first}" } }
      rest.inject(found) { |each, part| each.is_a?(Array) ? each[part.to_i] : each[part] }
    end

    # ---- plain forms

    def plain(value)
      case value
      when Aethyr::EventStore::Event, Aethyr::EventStore::State then record(value)
      when Google::Protobuf::Timestamp then stamp(Aethyr::EventStore::Codec.time(value))
      when Google::Protobuf::Value then Aethyr::EventStore::Codec.plain(value)
      when Google::Protobuf::Map then value.map { |key, each| [key, plain(each)] }.to_h
      when Google::Protobuf::MessageExts then message(value)
      when Google::Protobuf::RepeatedField, Array then value.map { |each| plain(each) }
      when Time then stamp(value)
      when Symbol then value.to_s
      when String then value.encoding == Encoding::BINARY ? value.unpack1("H*") : value
      else value
      end
    end

    def message(value)
      value.class.descriptor.to_h { |field| [field.name, plain(field.get(value))] }
    end

    def record(value)
      value.to_h.to_h { |key, each| [key.to_s, key == :data ? data(each) : plain(each)] }
           .reject { |key, each| key == "json" || (key == "data" && each.nil?) }
    end

    def data(value)
      bytes = value.is_a?(String) && value.encoding == Encoding::BINARY
      bytes ? { "binary" => value.unpack1("H*") } : value
    end

    def stamp(time)
      digits = [0, 3, 6, 9].find { |count| (time.nsec % (10**(9 - count))).zero? }
      time.getutc.strftime("%Y-%m-%dT%H:%M:%S#{".%#{digits}N" if digits.positive?}Z")
    end

    # ---- comparison

    def compare(wanted, found, path)
      case wanted
      when Hash then wanted.key?("$length") ? compare_long(wanted, found, path) :
        compare_object(wanted, found, path)
      when Array
        differs(wanted, found, path) unless found.is_a?(Array) && found.size == wanted.size
        wanted.each_index { |at| compare(wanted[at], found[at], "#{path}.#{at}") }
      when "$any" then raise StepFailed, "#{path}: a default value" if DEFAULTS.include?(found)
      else differs(wanted, found, path) unless wanted == found || (DEFAULTS.include?(wanted) && found.nil?)
      end
    end

    def compare_object(wanted, found, path)
      return if wanted.empty? && found.nil?

      differs(wanted, found, path) unless found.is_a?(Hash)
      wanted.each do |key, value|
        next if !found.key?(key) && DEFAULTS.include?(value)

        compare(value, found[key], "#{path}.#{key}") unless value.nil? && DEFAULTS.include?(found[key])
      end
    end

    def compare_long(wanted, found, path)
      differs(wanted, found, path) unless found.is_a?(Array) && found.size == wanted["$length"]
      compare(wanted["$first"], found.first, "#{path}.first") if wanted.key?("$first")
      compare(wanted["$last"], found.last, "#{path}.last") if wanted.key?("$last")
      return unless (field = wanted["$counts"])

      found.each_cons(2) do |one, two|
        differs(one[field] + 1, two[field], "#{path}.#{field}") if two[field] != one[field] + 1
      end
    end

    def differs(wanted, found, path)
      raise StepFailed, "#{path}: wanted #{short(wanted)}, found #{short(found)}"
    end

    def short(value) = JSON.generate(value)[0, 400]

    # ---- errors

    def error_fields(error)
      fields = { "code" => error.code, "type" => error.class.name.split("::").last, "reason" => error.reason,
                 "domain" => error.domain, "metadata" => error.metadata, "message" => error.message,
                 "retry_after" => error.retry_after }
      %w[expected actual aggregate_id event_id right rule limit max id name outcome_unknown].each do |name|
        fields[name] = error.public_send(name) if error.respond_to?(name)
      end
      fields["fields"] = error.violations.map(&:field) if error.respond_to?(:violations)
      fields
    end

    def compare_error(wanted, found)
      wanted.each do |key, value|
        right = case key
                when "field" then found["fields"].to_a.include?(value)
                when "message_has" then found["message"].include?(value)
                when "message_lacks" then !found["message"].include?(value)
                else found[key] == value || (value == "$any" && !DEFAULTS.include?(found[key]))
                end
        raise StepFailed, "error #{key}: wanted #{short(value)}, found #{short(found)}" unless right
      end
    end
  end
end
