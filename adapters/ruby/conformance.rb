# frozen_string_literal: true

# Owns the conformance runner of this client: plays the cases of clients/conformance against the harness,
# whose control URL is in AETHYR_CONFORMANCE. `python3 clients/conformance/harness.py -- ruby
# adapters/ruby/conformance.rb`
$LOAD_PATH.unshift(File.expand_path("lib", __dir__))
require "net/http"
require "time"
require "aethyr/event_store"
require_relative "conformance/operations"
require_relative "conformance/matching"

module Conformance
  class StepFailed < StandardError; end

  # Plays one case.
  class Case
    include Operations
    include Matching

    def initialize(control, title)
      @control = control
      @title = title
      @answers = { "run" => SecureRandom.hex(6), "address" => control.info["address"],
                   "dead" => "127.0.0.1:1", "silent" => control.info["silent"] }
      @clients = {}
      @lock = Mutex.new
      @checkpoints = Aethyr::EventStore::MemoryCheckpoints.new
      @subscriptions = {}
      @background = {}
    end

    def play(steps)
      steps.each.with_index(1) do |step, number|
        step(step)
      rescue StepFailed, StandardError => e
        where = " (#{e.class}, #{e.backtrace.first})" unless e.is_a?(StepFailed)
        raise StepFailed, "step #{number}: #{e.message}#{where}"
      end
    ensure
      finish
    end

    private

    def step(step)
      name = step["background"]
      return repeated(step) unless name

      @background[name] = Thread.new { repeated(step, check: true) }.tap do |thread|
        thread.report_on_exception = false
      end
    end

    def repeated(step, check: true)
      last = nil
      (1..step.fetch("repeat", 1)).each { |i| last = once(filled(step, i), check) }
      last
    end

    def once(step, check)
      operation = (step.keys - Matching::BESIDE).first
      raise StepFailed, "unknown operation in #{step.keys}" unless Operations::NAMES.include?(operation)

      begin
        answer = public_send("do_#{operation}", step[operation], client(step["client"] || "a"), seconds(step))
      rescue Aethyr::EventStore::AethyrError => e
        return failed(step, e)
      end
      connected(step, answer) if operation == "connect"
      raise StepFailed, "no error, but #{short(answer)}" if step["error"]

      compare(step["answer"], answer, "answer") if check && step.key?("answer")
      @lock.synchronize { @answers[step["as"]] = answer } if step["as"]
      answer
    end

    def failed(step, error)
      raise error unless step["error"]

      fields = error_fields(error)
      compare_error(step["error"], fields)
      @lock.synchronize { @answers[step["as"]] = fields } if step["as"]
      fields
    end

    # The instance of the step is from now on the one that `connect` made.
    def connected(step, answer)
      made = answer.delete("client")
      @lock.synchronize { @clients[step["client"] || "a"], made = made, @clients[step["client"] || "a"] }
      made&.close
    end

    def seconds(step) = step["deadline_ms"] && step["deadline_ms"] / 1000.0

    def client(name)
      @lock.synchronize do
        @clients[name] ||= Aethyr::EventStore::Client.new("aethyr://#{@answers["address"]}")
      end
    end

    def finish
      @subscriptions.each_value(&:close)
      @background.each_value { |thread| thread.join(20) rescue nil }
      @clients.each_value(&:close)
    end
  end

  # The control API of the harness.
  class Control
    def initialize(url)
      @uri = URI(url)
    end

    def info = @info ||= ask("info")

    def ask(command)
      answer = Net::HTTP.start(@uri.host, @uri.port, read_timeout: 180) do |http|
        http.post("/", JSON.generate("control" => command))
      end
      body = JSON.parse(answer.body)
      raise StepFailed, "control #{command}: #{body["error"]}" unless answer.is_a?(Net::HTTPOK)

      body
    end

    def recover
      ask("release")
      ask("start_immudb") if info["immudb"]
      ask("start_service")
    end
  end

  def self.run(files)
    control = Control.new(ENV.fetch("AETHYR_CONFORMANCE"))
    files = Dir[File.expand_path("../../clients/conformance/[0-9]*.json", __dir__)].sort if files.empty?
    passed = skipped = 0
    files.each do |file|
      content = JSON.parse(File.read(file))
      title = content["title"]
      if content["needs"].to_a.include?("immudb") && !control.info["immudb"]
        skipped += 1
        puts "skipped #{title}: no ImmuDB"
        next
      end
      begin
        Case.new(control, title).play(content["steps"])
        passed += 1
        puts "ok #{title}"
      rescue StepFailed => e
        puts "FAILED #{title}: #{e.message}"
        control.recover
      end
      $stdout.flush
    end
    puts "#{files.size} cases, #{passed} passed#{", #{skipped} skipped" if skipped.positive?}"
    passed + skipped == files.size
  end
end

exit(Conformance.run(ARGV) ? 0 : 1) if $PROGRAM_NAME == __FILE__
