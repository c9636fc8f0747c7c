# frozen_string_literal: true

# Owns the options of a client and the connection string `aethyr://host1:50051,host2:50051?tls=…`. A token is
# never part of a text that this file makes.
module Aethyr
  module EventStore
    class Options
      PORT = 50_051
      PARAMETERS = %i[tls ca cert key server_name token_file deadline attempt_deadline].freeze
      KNOWN = (%i[hosts token] + PARAMETERS).freeze
      SCHEME = "aethyr://"
      HOST = /\A([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([1-9]\d{0,4}))?\z/
      TOKEN = /\A[\x21-\x7e]+\z/
      TIME = /\A(\d{1,6}(?:\.\d{1,3})?)(ms|s|m)\z/
      UNITS = { "ms" => 0.001, "s" => 1, "m" => 60 }.freeze

      attr_reader :hosts, :ca, :cert, :key, :server_name, :token_file, :deadline, :attempt_deadline

      # `Options.new("aethyr://host", deadline: 5)`: named options win over those of the string.
      def initialize(text = nil, **named)
        unknown = named.keys - KNOWN
        if unknown.any?
          refuse(unknown.first, "unknown options: #{unknown.join(", ")}; known: #{KNOWN.join(", ")}")
        end

        given = (text ? parse(text) : {}).merge(named)
        @text = nil if named.any?
        # The path of a Unix socket can be given as a named option only.
        @hosts = Array(given[:hosts] || "127.0.0.1").map { |host| host[%r{\Aunix:/.*}] || with_port(host) }
        @ca, @cert, @key, @server_name = given.values_at(:ca, :cert, :key, :server_name)
        @token, @token_file = given.values_at(:token, :token_file)
        @tls = switch(given[:tls])
        @deadline = seconds("deadline", given[:deadline] || 15)
        @attempt_deadline = seconds("attempt_deadline", given[:attempt_deadline] || 5)
        check
      end

      def tls? = @tls

      # The token for the next attempt, or nil. A file is read each time, so a new token is used at once.
      def token
        return @token unless token_file

        line = content(:token_file).lines.first.to_s.strip
        refuse(:token_file, "the first line of token_file is no token") unless TOKEN.match?(line)

        line
      end

      # The bytes of the file that this option names, or nil.
      def content(name)
        path = public_send(name)
        path && File.binread(path)
      rescue SystemCallError, ArgumentError => e
        refuse(name, "#{name} #{path}: #{e.message}")
      end

      def loopback?(host)
        host.match?(/\A(localhost|127(\.\d{1,3}){3}|\[::1\]):\d+\z/) || host.start_with?("unix:/")
      end

      # The connection string as it was given, or its hosts, with `***` in the place of a token.
      def to_s = @text || "aethyr://#{"***@" if @token}#{hosts.join(",")}"
      def inspect = "#<#{self.class} #{self}>"

      private

      def parse(text)
        refuse(:address, "the connection string is not UTF-8") unless text.valid_encoding?
        refuse(:address, "a connection string begins with aethyr://") unless text.start_with?(SCHEME)

        where, _, query = text.delete_prefix(SCHEME).partition("?")
        token, at, names = where.rpartition("@")
        # What is wrong may be a part of the token: it is not shown.
        refuse(:address, "the token is empty") if token.empty? && !at.empty?
        refuse(:address, "in a token, @ is written as %40 and ? as %3F") if query.include?("@")
        refuse(:address, "a % is written as %25") if text.match?(/%(?!\h\h)/)

        @text = "#{SCHEME}#{"***" unless at.empty?}#{text[(SCHEME.size + token.size)..]}"
        given = { hosts: names.delete_suffix("/").split(",", -1).map { |host| with_port(host) } }
        given[:token] = decoded(token) unless token.empty?
        given.merge(parameters(query))
      end

      def parameters(query)
        query.split("&").reject(&:empty?).each_with_object({}) do |pair, found|
          name, _, value = pair.partition("=")
          name = name.to_sym
          unless PARAMETERS.include?(name)
            refuse(name, "unknown parameter: #{name}; known: #{PARAMETERS.join(", ")}")
          end
          refuse(name, "#{name} is there twice") if found.key?(name)
          refuse(name, "#{name} has no value") if value.empty?

          found[name] = decoded(value)
        end
      end

      def decoded(text)
        text.gsub(/(?:%\h\h)+/) { |bytes| [bytes.delete("%")].pack("H*").force_encoding(text.encoding) }
      end

      def with_port(host)
        name, port = HOST.match(host)&.captures
        if name.nil? || !(1..65_535).cover?((port || PORT).to_i)
          refuse(:address, "a host is NAME, NAME:PORT or [IPV6]:PORT")
        end

        "#{name}:#{port || PORT}"
      end

      def switch(value)
        case value
        when nil then !(ca || cert).nil?
        when true, "on" then true
        when false, "off" then false
        else refuse(:tls, "tls is on or off")
        end
      end

      def seconds(name, value)
        return Float(value) if value.is_a?(Numeric) && value.positive?

        number, unit = TIME.match(value.to_s.b)&.captures
        refuse(name, "#{name} is a time such as 500ms, 15s or 1m") unless number&.to_f&.positive?

        number.to_f * UNITS.fetch(unit)
      end

      def check
        refuse(:address, "there is no host") if hosts.empty?
        refuse(:cert, "a certificate needs a key, and a key a certificate") if cert.nil? != key.nil?
        refuse(:tls, "ca, cert and server_name need tls=on") if !tls? && (ca || cert || server_name)
        check_token
      end

      def check_token
        refuse(:address, "the token has invalid characters") if @token && !TOKEN.match?(@token.b)
        refuse(:token_file, "give a token or a token_file, not both") if @token && token_file
        return if tls? || !(@token || token_file) || hosts.all? { |host| loopback?(host) }

        refuse(:tls, "a token without TLS to a host that is not loopback is readable on the network: " \
                     "use tls=on")
      end

      def refuse(field, message) = InvalidArgument.refuse(field, message)
    end
  end
end
