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
    def admin = load[:admin]
  end
end

class Object
  private

  def log(message, _level = 1) = (($log_lines ||= []) << message)
end
