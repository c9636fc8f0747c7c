# frozen_string_literal: true

# A stand-in of Aethyr's configuration.
require "yaml"

module ServerConfig
  class << self
    def load(force = false)
      @config = nil if force
      @config ||= YAML.safe_load(File.read("conf/config.yaml"), permitted_classes: [Symbol])
    end

    def reload = load(true)
    def [](item) = load[item]
    def has_setting?(item) = load.key?(item)
    def event_sourcing_enabled = load[:event_sourcing_enabled] || false
    def admin = load[:admin]

    # Each setting is saved.
    def []=(item, value)
      load[item] = value
      File.write("conf/config.yaml", YAML.dump(@config))
    end
  end
end

class Object
  private

  def log(message, _level = 1) = (($log_lines ||= []) << message)
end
