# frozen_string_literal: true

# Owns the tests of the README and of the example: every block of Ruby in the README is run, in its order.
require_relative "support/service"
require "open3"

class TestDocuments < Minitest::Test
  include Shared

  ROOT = File.expand_path("..", __dir__)

  def test_the_example
    out = IO.popen([RbConfig.ruby, "-W0", "-I", "#{ROOT}/lib", "#{ROOT}/examples/quest.rb", service.url],
                   &:read)
    found = JSON.parse(out)
    assert_equal ["The Lost Sword", 4, "It is cold.", true], found.values_at("quest", "sequence", "hall",
                                                                             "inside")
    assert_equal 3, (found["finders"] & %w[Alice Bob Carol Dave]).size
    assert_equal ["QuestBegun The Lost Sword"] + found["finders"].map { |name| "SwordFound #{name}" },
      found["news"]
  end

  # A block that is not played says so in its first line.
  def blocks(section)
    text = File.read("#{ROOT}/README.md")
    text = text[/^## #{section}$.*?(?=^## |\z)/m]
    text.scan(/^```ruby\n(.*?)^```/m).flatten.reject { |block| block.start_with?("# Not played") }
  end

  def test_the_client_of_the_readme
    code = %w[Use Subscriptions Errors World].flat_map { |section| blocks(section) }.join("\n")
    refute_empty code
    run_blocks("-e", code.gsub("aethyr://127.0.0.1:50051", service.url))
  end

  def test_the_tests_of_the_readme
    run_blocks("-e", "require 'minitest/autorun'\n#{blocks("Tests of a game").join("\n")}")
  end

  def test_sequent_of_the_readme
    code = "require #{File.join(__dir__, "support/world").inspect}\n#{blocks("Sequent").join("\n")}"
    run_blocks("-rlogger", "-e", code.gsub("127.0.0.1:50051", service.address))
  end

  def run_blocks(*arguments)
    # What -I has added; gems are found by the process itself.
    added = $LOAD_PATH.reject do |path|
      path.include?("/gems/") || path.start_with?(RbConfig::CONFIG["prefix"])
    end
    Dir.mktmpdir do |dir|
      out, status = Open3.capture2e(RbConfig.ruby, "-W0", "-I", "#{ROOT}/lib",
                                    *added.flat_map { |path| ["-I", path] }, *arguments, chdir: dir)
      assert status.success?, out
    end
  end

  def test_generated_code_is_of_these_protos
    names = Dir["#{ROOT}/lib/aethyr/{eventstore,world}/**/*_pb.rb"].map do |file|
      File.basename(file, "_pb.rb")
    end
    protos = Dir["#{ROOT}/../../proto/aethyr/{eventstore,world}/v1/*.proto"]
    skip "the protos of the service are not beside the gem" if protos.empty?
    assert_equal protos.map { |file| File.basename(file, ".proto") }.sort, names.grep_v(/_services\z/).sort
    protos.each { |file| check_fields(file) }
  end

  # Names of messages and fields, as far as they can be read without a compiler.
  def check_fields(file)
    package = File.read(file)[/^package (.*);/, 1]
    pool = Google::Protobuf::DescriptorPool.generated_pool
    File.read(file).gsub(/^message \w+ \{\}$/, "").scan(/^message (\w+) \{(.*?)^\}/m) do |name, body|
      descriptor = pool.lookup("#{package}.#{name}")
      assert descriptor, "#{name}: run generate.sh"
      fields = body.gsub(%r{//.*}, "").gsub(/^  enum .*?^  \}/m,
                                            "").scan(/(\w+) = (\d+);/).to_h do |field, number|
                                              [field, number.to_i]
                                            end
      assert_equal fields, descriptor.to_h { |field| [field.name, field.number] }, "#{name}: run generate.sh"
    end
  end
end
