"""The web pages of `clipsr-client ui`: a client of the service like any other, in a browser.

Needs the extra: `pip install 'clipsr[ui]'`. Nothing outside of this package imports gradio, and nothing imports this
package before the command runs.
"""
