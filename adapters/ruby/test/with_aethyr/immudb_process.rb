# frozen_string_literal: true

# Owns an ImmuDB for with-aethyr.sh, which one process starts and another kills and starts again.
require "socket"

class ImmudbProcess
  # The one that the environment names.
  def self.running
    new(ENV.fetch("IMMUDB"), ENV.fetch("IMMUDB_FOLDER"), Integer(ENV.fetch("IMMUDB_PORT")),
        Integer(ENV.fetch("IMMUDB_PID")))
  end

  attr_reader :port

  def initialize(program, folder, port = nil, pid = nil)
    @program = program
    @folder = folder
    @port = port || TCPServer.open("127.0.0.1", 0) { |server| server.addr[1] }
    @pid = pid
  end

  def environment
    { "IMMUDB" => @program, "IMMUDB_FOLDER" => @folder, "IMMUDB_PORT" => @port.to_s,
      "IMMUDB_PID" => @pid.to_s }
  end

  def start
    clean = ENV.keys.grep(/\AIMMUDB_/).to_h { |name| [name, nil] }
    @pid = Process.spawn(clean, @program, "--dir", @folder, "--address", "127.0.0.1", "--port", @port.to_s,
                         "--pgsql-server=false", "--web-server=false", "--metrics-server=false",
                         %i[out err] => File::NULL)
    Process.detach(@pid)
    200.times do
      TCPSocket.open("127.0.0.1", @port).close
      return self
    rescue SystemCallError
      sleep 0.1
    end
    raise "ImmuDB does not start"
  end

  def kill
    Process.kill("KILL", @pid)
    sleep 0.1
  rescue Errno::ESRCH
    nil
  end
end
