# frozen_string_literal: true

# Owns the tests of the connection string.
require_relative "support/service"

class TestOptions < Minitest::Test
  Options = Aethyr::EventStore::Options

  def refused(...)
    assert_raises(Aethyr::EventStore::InvalidArgument) { Options.new(...) }
  end

  def test_hosts_and_ports
    options = Options.new("aethyr://one,two:7,[::1],[::1]:8/?deadline=500ms")
    assert_equal %w[one:50051 two:7 [::1]:50051 [::1]:8], options.hosts
    assert_in_delta 0.5, options.deadline
    refute_predicate options, :tls?
    assert_equal 60, Options.new("aethyr://one?deadline=1m").deadline
    assert_equal "address", refused("aethyr://one:70000").violations.first.field
    refused("aethyr://::1")
    refused("aethyr://")
    refused("http://one")
    refused("aethyr://one?deadline=15")
  end

  def test_a_unix_socket_is_a_named_option
    options = Options.new(hosts: "unix:/run/aethyr/store.sock", token: "secret")
    assert_equal ["unix:/run/aethyr/store.sock"], options.hosts
    assert_equal ["unix:7"], Options.new("aethyr://unix:7").hosts
    refused("aethyr://unix:/")
    refused("aethyr://secret@unix:7")
    assert_equal "address", refused(hosts: []).violations.first.field
  end

  def test_texts_that_are_not_utf_8
    assert_equal "address", refused("aethyr://one\xff").violations.first.field
    assert_equal "deadline", refused("aethyr://one?deadline=1s%ff").violations.first.field
    assert_equal "tls", refused("aethyr://one?tls=%ff").violations.first.field
  end

  def test_tls
    assert_predicate Options.new("aethyr://one?tls=on"), :tls?
    assert_predicate Options.new("aethyr://one?ca=/ca.pem"), :tls?
    refused("aethyr://one?ca=/ca.pem&tls=off")
    refused("aethyr://one?tls=on&cert=/c.pem")
    refused("aethyr://one?tls=yes")
  end

  def test_a_token_is_never_shown
    options = Options.new("aethyr://secret@127.0.0.1?deadline=5s")
    assert_equal "secret", options.token
    assert_equal "aethyr://***@127.0.0.1?deadline=5s", options.to_s
    client = Aethyr::EventStore::Client.new(options)
    [options.inspect, client.inspect, client.to_s, "#{client}"].each { |text| refute_includes text, "secret" }
    refute_includes Options.new(hosts: "localhost", token: "secret").inspect, "secret"
    refute_includes refused("aethyr://secret@192.0.2.1").message, "secret"
    refute_includes refused("aethyr://secret@127.0.0.1?x=1").message, "secret"
    refute_includes refused("aethyr://secret@127.0.0.1:99999").message, "secret"
    assert Options.new("aethyr://secret@192.0.2.1?tls=on")
    ["aethyr://se%cret@127.0.0.1", "aethyr://127.0.0.1?token_file=se%cret"].each do |text|
      refute_includes refused(text).message, "cret"
    end
    assert_equal "a+b@?", Options.new("aethyr://a+b%40%3F@127.0.0.1").token
    refute_includes refused("aethyr://cret%C3%BC@127.0.0.1").message, "cret"
    refute_includes refused(hosts: "localhost", token: "se cret").message, "cret"
  end

  def test_a_token_file_is_read_again
    Dir.mktmpdir do |dir|
      path = File.join(dir, "token")
      File.write(path, "first\nmore\n")
      options = Options.new("aethyr://[::1]?token_file=#{path}")
      assert_equal "first", options.token
      # The same time of the file does not hide a new token.
      changed = File.mtime(path)
      File.write(path, "second\n")
      File.utime(changed, changed, path)
      assert_equal "second", options.token
      File.write(path, "\nthird\n")
      assert_raises(Aethyr::EventStore::InvalidArgument) { options.token }
      File.delete(path)
      assert_raises(Aethyr::EventStore::InvalidArgument) { options.token }
    end
  end

  def test_unknown_parameters_are_named
    error = refused("aethyr://one?retries=3")
    assert_equal "retries", error.violations.first.field
    assert_includes error.message, "deadline"
    refused("aethyr://one", retries: 3)
  end

  def test_named_options_win
    options = Options.new("aethyr://one?deadline=5s", deadline: 2)
    assert_equal 2, options.deadline
    assert_equal "aethyr://one:50051", options.to_s
  end
end
