# frozen_string_literal: true

# Owns a connection of a player that nobody listens to.
class NoConnection
  def display(*) = self
  def layout_type = :basic
  def method_missing(*, **) = nil
  def respond_to_missing?(*) = true
end
