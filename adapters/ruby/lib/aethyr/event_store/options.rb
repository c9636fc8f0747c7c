# frozen_string_literal: true

# Owns the options of a client and the connection string `aethyr://host1:50051,host2:50051?tls=…`. A token is
# never part of a text that this file makes.
require "ipaddr"

module Aethyr
  module EventStore
    class Options
      PORT = 50_051
      PARAMETERS = %i[tls ca cert key server_name token_file deadline attempt_deadline].freeze
      KNOWN = (%i[hosts token] + PARAMETERS).freeze
      UNITS = { "ms" => 0.001, "s" => 1, "m" => 60 }.freeze

      attr_reader :hosts, :ca, :cert, :key, :server_name, :token_file, :deadline, :attempt_deadline

      # `Options.new("aethyr://host", deadline: 5)`: named options win over those of the string.
      def initialize(text = nil, **named)
        unknown = named.keys - KNOWN
        if unknown.any?
          refuse(unknown.first, "unknown options: #{unknown.join(", ")}; known: #{KNOWN.join(", ")}")
        end
        @text = masked(text) if text && named.empty?

        given = (text ? parse(text) : {}).merge(named)
        @hosts = Array(given[:hosts] || "127.0.0.1").map { |host| with_port(host) }
        @ca, @cert, @key, @server_name = given.values_at(:ca, :cert, :key, :server_name)
        @token, @token_file = given.values_at(:token, :token_file)
        @tls = switch(given[:tls])
        @deadline = seconds("deadline", given[:deadline] || 15)
        @attempt_deadline = seconds("attempt_deadline", given[:attempt_deadline] || 5)
        check
      end

      def tls? = @tls

      # The token for the next call, or nil. A file is read again when it has changed.
      def token
        return @token unless token_file

        changed = File.mtime(token_file)
        if changed != @token_read
          @token = File.open(token_file, &:readline).strip
          @token_read = changed
        end
        @token
      rescue SystemCallError, EOFError => e
        refuse(:token_file, "token_file #{token_file}: #{e.message}")
      end

      # The connection string as it was given, or its hosts, with `***` in the place of a token.
      def to_s = @text || "aethyr://#{"***@" if @token}#{hosts.join(",")}"
      def inspect = "#<#{self.class} #{self}>"

      private

      def parse(text)
        match = %r{\Aaethyr://(?:(?<token>[^@/?]*)@)?(?<hosts>[^/?@]*)/?(?:\?(?<query>.*))?\z}m.match(text)
        unless match
          refuse(:address, "a connection string has the form aethyr://host:port,host:port?name=value")
        end

        given = { hosts: match[:hosts].split(",").reject(&:empty?) }
        refuse(:address, "the connection string names no host") if given[:hosts].empty?

        given[:token] = decoded(:token, match[:token]) if match[:token].to_s != ""
        given.merge(parameters(match[:query].to_s))
      end

      def parameters(query)
        pairs = query.split("&").reject(&:empty?).to_h do |part|
          name, value = part.split("=", 2)
          [name.to_sym, decoded(name, value.to_s)]
        end
        unknown = pairs.keys - PARAMETERS
        return pairs if unknown.empty?

        refuse(unknown.first, "unknown parameters: #{unknown.join(", ")}; known: #{PARAMETERS.join(", ")}")
      end

      # Not the value is shown, which may be a token.
      def decoded(field, text)
        refuse(field, "#{field}: a % is written as %25") if text.match?(/%(?!\h\h)/)

        text.gsub(/(?:%\h\h)+/) { |bytes| [bytes.delete("%")].pack("H*").force_encoding(text.encoding) }
      end

      def with_port(host)
        return host if host.start_with?("unix:")
        return "#{host}:#{PORT}" if host.match?(/\A\[[^\]]*\]\z/) || !host.include?(":")

        name, port = host.match(/\A(\[[^\]]*\]|[^:\[\]]+):(\d{1,5})\z/)&.captures
        refuse(:address, "not a host and port: #{host} (IPv6 in brackets)") if name.nil?
        refuse(:address, "not a port: #{host}") unless (1..65_535).cover?(port.to_i)

        host
      end

      def switch(value)
        case value
        when nil then !(ca || cert).nil?
        when true, "on" then true
        when false, "off" then false
        else refuse(:tls, "tls is on or off, not #{value}")
        end
      end

      def seconds(name, value)
        return Float(value) if value.is_a?(Numeric) && value.positive?

        number, unit = /\A(\d+(?:\.\d+)?)(ms|s|m)\z/.match(value.to_s)&.captures
        unless number&.to_f&.positive?
          refuse(name, "#{name} is a time such as 500ms, 15s or 1m, not #{value}")
        end

        number.to_f * UNITS.fetch(unit)
      end

      def check
        refuse(:token_file, "give a token or a token_file, not both") if @token && token_file
        if cert.nil? != key.nil?
          refuse(cert ? :key : :cert, "a certificate needs a key, and a key a certificate")
        end
        refuse(:tls, "ca, cert and key need tls=on") if !tls? && (ca || cert)
        return if tls? || !(@token || token_file) || hosts.all? { |host| local?(host) }

        refuse(:tls, "a token without TLS to a host that is not loopback is readable on the network: " \
                     "use tls=on")
      end

      def masked(text) = text.sub(%r{\A(aethyr://)[^@/?]+@}, '\1***@')

      def refuse(field, message) = InvalidArgument.refuse(field, message)

      def local?(host)
        return true if host.start_with?("unix:")

        name = host.sub(/:\d+\z/, "").delete("[]")
        name == "localhost" || IPAddr.new(name).loopback?
      rescue IPAddr::Error
        false
      end
    end
  end
end
