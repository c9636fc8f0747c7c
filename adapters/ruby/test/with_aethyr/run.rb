# frozen_string_literal: true

# Owns the parts of with-aethyr.sh: a service for each, a copy of Aethyr's conf and storage, and the result.
require "fileutils"
require "shellwords"
require "aethyr/event_store/test_service"
require_relative "immudb_process"

ROOT = ENV.fetch("AETHYR_SOURCES")
PATHS = ENV.fetch("RUBY_PATHS").shellsplit
HERE = __dir__

# A folder to play in: Aethyr's own integration world, with the one line in its configuration.
def playground(service, line: "event_store_address: #{service.address}")
  folder = File.join(service.folder, "game")
  FileUtils.cp_r(File.join(ROOT, "tests/integration/server_bootstrap"), folder)
  FileUtils.mkdir_p(File.join(folder, "logs"))
  config = File.join(folder, "conf/config.yaml")
  File.write(config, "#{File.read(config).chomp}\n:#{line}\n") if line
  folder
end

def play(script, folder, environment, *arguments)
  system(environment, "ruby", "-W0", "-rlogger", "-rset", *PATHS, "-raethyr/event_store/aethyr",
         File.join(HERE, script), *arguments,
         chdir: folder)
end

def part(name)
  immudb = ImmudbProcess.new(ENV.fetch("IMMUDB"), Dir.mktmpdir("immudb")).start if name == "immudb"
  settings = immudb ? { "IMMUDB_ADDRESS" => "127.0.0.1", "IMMUDB_PORT" => immudb.port.to_s } : {}
  Aethyr::EventStore::TestService.run(environment: settings) do |service|
    environment = { "SERVICE_PID" => service.pid.to_s, "SERVICE" => service.address }
    play("#{name}.rb", playground(service), environment.merge(immudb ? immudb.environment : {}))
  end
ensure
  immudb&.kill
end

parts = ENV["PARTS"] ? ENV["PARTS"].split : %w[game migration features]
parts << "immudb" if ENV["IMMUDB"] && !ENV["PARTS"]
results = parts.map do |name|
  puts "== #{name}"
  part(name)
end
puts "skipped immudb: IMMUDB names no program" unless ENV["IMMUDB"]
exit(results.all? ? 0 : 1)
